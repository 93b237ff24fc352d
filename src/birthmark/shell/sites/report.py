"""At a site: the report as a file that is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.durable import naming_os_errors, sync_directory, write_durably
from birthmark.adapters.logstore import FileLogStore
from birthmark.adapters.received import read_received
from birthmark.errors import Misconfigured
from birthmark.shell.line.sources import open_authority
from birthmark.wire.report import ReportHeader, open_acknowledgement
from birthmark.workflow.homecoming.report import acknowledged_size, report_log

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.wire.service import ReportTaken

__all__ = ["acknowledged_entries", "push_report", "stored_acknowledgement", "write_report_file"]

_ACK_NAME = "ack"


def acknowledged_entries(workspace: Workspace, ack: Path) -> int:
    """Return how many entries the authority has, as its file ``ack`` says; errors as of ``acknowledged_size``."""
    authority = workspace.records.authority()
    if authority is None:
        raise Misconfigured(
            "site.no_authority",
            "this workspace works for no authority, so nobody acknowledges its log",
            hint="Take its grant in with `birthmark site accept`, or give --since.",
        )
    opened = open_acknowledgement(read_received(ack), authority.vkey)
    store = FileLogStore(workspace.root / "log")
    return acknowledged_size(opened, publisher=workspace.ledger, store=store, origin=workspace.settings.origin)


def stored_acknowledgement(workspace: Workspace) -> Path | None:
    """Return the last acknowledgement that the authority's service gave, if there is one."""
    path = workspace.root / _ACK_NAME
    return path if path.is_file() else None


def push_report(workspace: Workspace, report: Path, *, station: str | None = None) -> ReportTaken:
    """Send a report to the authority's service as ``station`` (default: the first) and keep its acknowledgement.

    Raises what the service refused; ``Unavailable("authority.unreachable")``: send it again, twice is once;
    ``Tampered`` if the acknowledgement is not the authority's or not of this log. Power cut before the
    acknowledgement is kept: the next report holds the same entries once more.
    """
    names = list(workspace.settings.stations)
    authority = open_authority(workspace, station or (names[0] if names else ""))
    taken = authority.report(report)
    unfinished = workspace.root / f".{_ACK_NAME}.new"
    write_durably(unfinished, taken.acknowledgement, mode=0o644)
    acknowledged_entries(workspace, unfinished)
    with naming_os_errors(unfinished):
        unfinished.replace(workspace.root / _ACK_NAME)
    sync_directory(workspace.root)
    return taken


def write_report_file(
    workspace: Workspace, output: Path, *, since: int, progress: Callable[[int], None] = lambda count: None
) -> ReportHeader:
    """Write the report of the published log; return its header.

    Power cut: ``output`` is the whole report or what it was before.
    """
    unfinished = output.with_name(f".{output.name}.new")
    with naming_os_errors(output):
        try:
            # A stick may have anything under this name, a link to some file of ours too.
            unfinished.unlink(missing_ok=True)
            with unfinished.open("xb") as file:
                header = report_log(
                    file.write,
                    publisher=workspace.ledger,
                    store=FileLogStore(workspace.root / "log"),
                    origin=workspace.settings.origin,
                    since=since,
                    progress=progress,
                )
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(output)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_directory(output.parent)
    return header
