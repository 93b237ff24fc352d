"""From a workspace directory to the page of its evidence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.model.eventbase import utc_text
from birthmark.shell.web.evidencepage import render_evidence
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.evidence.evidence import Scope, collect_evidence

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report
    from birthmark.workflow.evidence.evidence import Evidence

__all__ = ["EvidenceRead", "read_evidence"]


@dataclass(frozen=True, slots=True)
class EvidenceRead:
    """What the log says, what the audit says of the log, and the page that shows both."""

    found: Evidence
    verdict: Report
    html: str


def _quietly(total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


def read_evidence(
    directory: Path, scope: Scope, *, bar: Callable[[int], AbstractContextManager[Callable[[int], None]]] = _quietly
) -> EvidenceRead:
    """Verify the workspace, count what is in ``scope`` and render it; nothing in the workspace is changed.

    ``bar`` is given the number of entries and yields what is told how many more were read.
    """
    verdict = verify_workspace(directory)
    with open_workspace(directory, publish=False) as workspace:
        at = utc_text(workspace.clock())
        with bar(workspace.ledger.head().size) as progress:
            found = collect_evidence(workspace.ledger, workspace.records, scope, progress=progress)
    return EvidenceRead(found, verdict, render_evidence(found, verdict, scope, at=at))
