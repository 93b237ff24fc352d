"""From a workspace directory to the page of its evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.model.eventbase import utc_text
from birthmark.shell.web.evidencepage import render_evidence
from birthmark.shell.wiring import open_workspace
from birthmark.workflow.evidence import Scope, collect_evidence

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report
    from birthmark.workflow.evidence import Evidence

__all__ = ["EvidenceRead", "read_evidence"]


@dataclass(frozen=True, slots=True)
class EvidenceRead:
    """What the log says, what the audit says of the log, and the page that shows both."""

    found: Evidence
    verdict: Report
    html: str


def read_evidence(
    directory: Path, scope: Scope, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> EvidenceRead:
    """Verify the workspace, count what is in ``scope`` and render it; nothing in the workspace is changed.

    ``progress`` gets (entries read since the last call, entries in all).
    """
    verdict = verify_workspace(directory)
    with open_workspace(directory, publish=False) as workspace:
        at = utc_text(workspace.clock())
        size = workspace.ledger.head().size
        found = collect_evidence(
            workspace.ledger, workspace.records, scope, progress=lambda count: progress(count, size)
        )
    return EvidenceRead(found, verdict, render_evidence(found, verdict, scope, at=at))
