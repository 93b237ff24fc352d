"""From a workspace directory to the page of its evidence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.adapters.logstore import FileLogStore
from birthmark.errors import Misconfigured, Tampered
from birthmark.model.eventbase import utc_text
from birthmark.shell.evidence.witnessed import check_workspace, claimed_log, known_vkey
from birthmark.shell.web.evidencepage import render_evidence
from birthmark.shell.workspace.wiring import open_workspace, utc_now
from birthmark.workflow.evidence.evidence import Scope, collect_evidence
from birthmark.workflow.evidence.evidencetable import SeenLog

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report
    from birthmark.shell.evidence.witnessed import Demand
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
    directory: Path,
    scope: Scope,
    *,
    demand: Demand | None = None,
    bar: Callable[[int], AbstractContextManager[Callable[[int], None]]] = _quietly,
) -> EvidenceRead:
    """Verify the workspace, count what is in ``scope`` and render it; nothing in the workspace is changed.

    ``demand``: what witnesses must have seen; without it, what they are said to have seen is shown as no more than
    that. ``bar`` is given the number of entries and yields what is told how many more were read.
    """
    known = None if demand is None else known_vkey(directory, demand.policy)
    verdict = verify_workspace(directory, vkey=known)
    if demand is not None:
        check_workspace(directory, verdict, demand, utc_now())
    vkey = (FileLogStore(directory / "log").read("vkey") or b"").decode("utf-8", "replace").strip()
    seen, unseen = _witnesses(directory, verdict, demand, vkey)
    with open_workspace(directory, publish=False) as workspace:
        at = utc_text(workspace.clock())
        with bar(workspace.ledger.head().size) as progress:
            found = collect_evidence(workspace.ledger, workspace.records, scope, progress=progress)
    return EvidenceRead(
        found, verdict, render_evidence(found, verdict, scope, at=at, seen=seen, unseen=unseen, vkey=known or vkey)
    )


def _witnesses(
    directory: Path, verdict: Report, demand: Demand | None, vkey: str
) -> tuple[tuple[SeenLog, ...], tuple[str, ...]]:
    """Return what witnesses saw, and what is wrong with it."""
    if demand is not None:
        seen = [(found, True) for found in verdict.witnessed.values()]
        wrong = [
            one.what for one in verdict.findings if one.code.startswith("audit.witness.") and one.severity == "error"
        ]
    else:
        seen, wrong = [], []
        try:
            claimed = claimed_log(directory / "log", vkey)
            seen += [] if claimed is None else [(claimed.document(), False)]
        except (Tampered, Misconfigured) as problem:
            wrong.append(f"log/cosigned: {problem.message}.")
    facts = (
        SeenLog(found["origin"], found["size"], found["since"], tuple(found["witnesses"].items()), trusted)
        for found, trusted in seen
    )
    return tuple(facts), tuple(wrong)
