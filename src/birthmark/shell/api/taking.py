"""Between the service and coming home: a report that a station sent is taken in for its site alone."""

from __future__ import annotations

from pathlib import Path

from birthmark.shell.api.service import TookReport
from birthmark.shell.sites.ingest import ingest_file
from birthmark.shell.workspace.wiring import Workspace

__all__ = ["take_report"]


def take_report(workspace: Workspace, site: str, path: Path) -> TookReport:
    """Take in the report in a file; raise what ``ingest_file`` raises, ``Refused("service.other_site")`` if foreign.

    Nothing of a refused report stays. A report that shows a contradiction is taken in and answered like any other: the
    site is stopped, and learns that from its next request.
    """
    result = ingest_file(workspace, path, of=site)
    return TookReport(
        outcome=result.report.outcome,
        size=result.size,
        settled=result.settled,
        findings=len(result.findings),
        acknowledgement=result.ack.read_bytes(),
    )
