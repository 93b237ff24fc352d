"""What guarded commands share: their two options, and the plan that is written instead of acting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.shell.cli.screen import emit

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.wire.approval import Plan

__all__ = ["ApprovalOption", "PlanOnlyOption", "only_planned", "tell_plan", "write_plan_only"]

ApprovalOption = Annotated[
    Path | None, typer.Option("--approval", help="The plan of exactly this, signed by its approvers.")
]
PlanOnlyOption = Annotated[
    Path | None, typer.Option("--plan-only", help="Do nothing: write the plan that approvers are to sign.")
]
_HOURS = 72.0


def write_plan_only(workspace: Workspace, action: str, facts: Mapping[str, str], path: Path, *, as_json: bool) -> None:
    """Write the plan of a command and say what comes next."""
    from birthmark.shell.authority.approvals import write_plan

    tell_plan(write_plan(workspace, action, facts, path, hours=_HOURS), path, as_json=as_json)


def only_planned(
    workspace: Workspace,
    action: str,
    facts: Mapping[str, str],
    approval: Path | None,
    plan_only: Path | None,
    *,
    as_json: bool,
) -> bool:
    """Write the plan and return True if only that is wanted; else put the approval on record, if one is needed."""
    if plan_only is not None:
        write_plan_only(workspace, action, facts, plan_only, as_json=as_json)
        return True
    from birthmark.shell.authority.approvals import approve_first

    approve_first(workspace, action, facts, approval)
    return False


def tell_plan(plan: Plan, path: Path, *, as_json: bool) -> None:
    """Show a new plan."""
    lines = [plan.text(), f"SHA-256 {plan.sha256}", f"wrote {path}; nothing was done."]
    lines.append(f"Next: birthmark approval sign {path} --key URI --name NAME, then the same command --approval {path}")
    emit({"plan": str(path), "plan_sha256": plan.sha256}, "\n".join(lines), as_json=as_json)
