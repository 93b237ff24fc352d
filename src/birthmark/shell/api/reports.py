"""Taking in a report of a site: streamed to a file, then handed on as if it had come on a stick."""

from __future__ import annotations

import asyncio
import os
import tempfile
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import Refused, StationFault, Unavailable
from birthmark.shell.api.answers import json_response
from birthmark.shell.api.callers import Caller
from birthmark.shell.api.service import Service, require_plain
from birthmark.wire.service import ReportTaken

__all__ = ["MAX_REPORT_OCTETS", "post_report"]

MAX_REPORT_OCTETS = 8 << 30
_LOOK_EVERY = 16 << 20
_KEPT_FREE, _KEPT_SHARE = 1 << 30, 20
"""Reports leave a gibibyte of the disk to the ledger, or a twentieth of a small one."""


async def post_report(service: Service, request: Request, caller: Caller | None) -> Response:
    """Take in a report of the caller's site and return the signed acknowledgement.

    ``Unavailable("service.busy")`` while another report of the site is on its way. A report that is refused leaves
    nothing behind. Power cut: what arrived and was not taken in is removed by the next
    start of the service; the site sends it again, and twice is once.
    """
    if caller is None or caller.site is None:
        raise Refused(
            "service.role",
            "a report comes from a site",
            hint="Use the TLS client certificate of one of the site's stations.",
        )
    require_plain(request)
    if caller.site in service.reporting:
        # A report may take 8 GiB of the disk and an hour; those of one site are taken in one after the other anyway.
        raise Unavailable(
            "service.busy",
            f"another report of {caller.site} is on its way",
            hint="Send it again when that one is taken in.",
            site=caller.site,
        )
    service.reporting.add(caller.site)
    try:
        path, digest, octets = await _spool(request, service.workspace.root / "sites" / caller.site / "inbox")
        try:
            took = await asyncio.to_thread(service.ingest, caller.site, path)
        finally:
            path.unlink(missing_ok=True)
    finally:
        service.reporting.discard(caller.site)
    return json_response(
        ReportTaken(
            site=caller.site,
            octets=octets,
            sha256=digest,
            outcome=took.outcome,
            settled=took.settled,
            findings=took.findings,
            acknowledged=took.size,
            acknowledgement=took.acknowledgement,
        )
    )


async def _spool(request: Request, inbox: Path) -> tuple[Path, str, int]:
    """Return path, SHA-256 and size of the body, in a file of the inbox that no one takes for a kept report."""
    with naming_os_errors(inbox):
        inbox.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(prefix=".spool-", dir=inbox)
    spool, digest, octets = Path(name), sha256(), 0
    try:
        with os.fdopen(descriptor, "wb") as file, naming_os_errors(spool):
            async for part in request.stream():
                octets += len(part)
                if octets > MAX_REPORT_OCTETS:
                    raise Refused(
                        "service.request.too_long",
                        f"the body has more than {MAX_REPORT_OCTETS} octets",
                        hint="Report more often.",
                        limit=MAX_REPORT_OCTETS,
                    )
                if octets // _LOOK_EVERY != (octets - len(part)) // _LOOK_EVERY:
                    _require_room(inbox)
                digest.update(part)
                file.write(part)
            file.flush()
    except StationFault:
        spool.unlink(missing_ok=True)
        await _drain(request, octets)
        raise
    except BaseException:
        spool.unlink(missing_ok=True)
        raise
    return spool, digest.hexdigest(), octets


def _require_room(inbox: Path) -> None:
    """Return if what the ledger needs stays free: a site that fills the disk would stop every other."""
    disk = os.statvfs(inbox)
    kept = min(_KEPT_FREE, disk.f_blocks * disk.f_frsize // _KEPT_SHARE)
    if disk.f_bavail * disk.f_frsize < kept:
        raise StationFault(
            "storage.full",
            "the disk of the service has no room for reports",
            hint="Free disk space there, then send the report again.",
            free=disk.f_bavail * disk.f_frsize,
            kept_free=kept,
        )


async def _drain(request: Request, octets: int) -> None:
    """Read on what nobody keeps: a caller that is still sending would see a broken connection, not the answer."""
    async for part in request.stream():
        octets += len(part)
        if octets > MAX_REPORT_OCTETS:
            return
