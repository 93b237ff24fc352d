"""Taking in a report of a site: streamed to a file, durable, then handed on."""

from __future__ import annotations

import asyncio
import os
import tempfile
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from birthmark.adapters.durable import naming_os_errors, sync_directory
from birthmark.errors import Refused
from birthmark.shell.api.answers import json_response
from birthmark.shell.api.callers import Caller
from birthmark.shell.api.service import Service, require_plain
from birthmark.wire.service import ReportTaken

__all__ = ["MAX_REPORT_OCTETS", "post_report"]

MAX_REPORT_OCTETS = 8 << 30


async def post_report(service: Service, request: Request, caller: Caller | None) -> Response:
    """Keep a report of the caller's site and take it in.

    Power cut before the rename: nothing arrived, and the spool file is removed by the next report. After it: the
    report is in the inbox of its site under the SHA-256 of its octets; sent again, it is the same file.
    """
    if caller is None or caller.site is None:
        raise Refused(
            "service.role",
            "a report comes from a site",
            hint="Use the TLS client certificate of one of the site's stations.",
        )
    require_plain(request)
    inbox = service.workspace.root / "sites" / caller.site / "inbox"
    path, digest, octets = await _spool(request, inbox)
    ingest = service.ingest
    if ingest is not None:
        acknowledged = await asyncio.to_thread(ingest, caller.site, path)
    else:
        site = service.workspace.records.site(caller.site)
        acknowledged = 0 if site is None else site.reported
    return json_response(ReportTaken(site=caller.site, octets=octets, sha256=digest, acknowledged=acknowledged))


async def _spool(request: Request, inbox: Path) -> tuple[Path, str, int]:
    """Return path, SHA-256 and size of the body, which is durable in the inbox."""
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
                digest.update(part)
                file.write(part)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        final = inbox / f"{digest.hexdigest()}.report"
        with naming_os_errors(final):
            spool.replace(final)
            sync_directory(inbox)
    except BaseException:
        spool.unlink(missing_ok=True)
        raise
    return final, digest.hexdigest(), octets
