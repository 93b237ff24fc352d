"""``birthmark approval``: several people agree to an exact plan before it is carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, tell_plan, write_plan_only
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, table

__all__ = ["register"]

KeyOption = Annotated[str, typer.Option("--key", help="URI of your own Ed25519 key: file: or pkcs11:.")]
NameOption = Annotated[str, typer.Option("--name", help="Name of your key: your account, or account@organisation.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    approval = typer.Typer(help="Dual control: n of m people approve an exact plan.", no_args_is_help=True)
    approval.command("key")(key)
    approval.command("set")(set_rule)
    approval.command("list")(list_rule)
    approval.command("plan")(plan)
    approval.command("sign")(sign)
    approval.command("show")(show)
    app.add_typer(approval, name="approval")


def key(
    uri: KeyOption,
    name: NameOption,
    new: Annotated[bool, typer.Option("--new", help="Make the key; one that exists is never overwritten.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the verifier key of your own key, for `birthmark approval set`."""
    from birthmark.shell.authority.approvals import approver_key
    from birthmark.shell.workspace.secrets import SecretsResolver
    from birthmark.tlog.note import encode_vkey, public_octets

    with approver_key(uri, SecretsResolver(), create=new) as opened:
        vkey = encode_vkey(name, public_octets(opened))
    emit({"name": name, "vkey": vkey}, vkey, as_json=as_json)


def set_rule(
    threshold: Annotated[int, typer.Option(help="How many of them have to approve.")],
    approver: Annotated[list[str], typer.Option(help="Verifier key of a person; once for each.")],
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Set whose approvals count. The first rule is set freely; to change it, the old approvers sign a plan."""
    from birthmark.shell.authority.approvals import set_approvers
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.tlog.note import parse_vkey
    from birthmark.workflow.authority.approval import approver_facts

    with open_workspace(workspace, publish=plan_only is None) as opened:
        if plan_only is not None:
            facts = approver_facts(threshold, approver)
            write_plan_only(opened, "approvers.set", facts, plan_only, as_json=as_json)
            return
        set_approvers(opened, threshold, approver, approval)
    names = [parse_vkey(vkey).name for vkey in approver]
    emit(
        {"threshold": threshold, "approvers": names},
        f"From now on {threshold} of {', '.join(names)} approve every guarded act; `birthmark approval list` shows"
        " which these are.",
        as_json=as_json,
    )


def list_rule(workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """Show whose approvals count, and for what."""
    from birthmark.shell.authority.approvals import is_guarded
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.authority.approval import ACTIONS, rule_in_force

    with open_workspace(workspace, publish=False) as opened:
        rule, guarded = rule_in_force(opened.records), is_guarded(opened)
    names = list(rule.names) if rule else []
    title = f"{rule.threshold} of {', '.join(names)} approve" if rule else "No approvers are set"
    if not guarded:
        title += "; nothing needs approval in this workspace"
    rows = [[name, action.what, " ".join(action.facts)] for name, action in ACTIONS.items()]
    document = {
        "guarded": guarded,
        "threshold": rule.threshold if rule else 0,
        "approvers": names,
        "acts": list(ACTIONS),
    }
    emit(document, table(title, ["act", "meaning", "its plan states"], rows), as_json=as_json)


def plan(
    action: Annotated[str, typer.Argument(help="The act; `birthmark approval list` shows all.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new plan file.")],
    fact: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, once for each fact of the act.")] = None,
    hours: Annotated[float, typer.Option(help="How long the plan may be carried out.")] = 72.0,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write the plan of an act from its facts. Guarded commands do the same with --plan-only, and know the facts."""
    from birthmark.shell.authority.approvals import write_plan
    from birthmark.shell.workspace.wiring import open_workspace

    pairs = [item.partition("=") for item in fact or []]
    if bad := [name for name, found, _ in pairs if not found]:
        raise Misconfigured(
            "approval.fact", f"{bad[0]!r} is not NAME=VALUE", hint="For example --fact device=TH-000001."
        )
    with open_workspace(workspace, publish=False) as opened:
        made = write_plan(opened, action, {name: value for name, _, value in pairs}, output, hours=hours)
    tell_plan(made, output, as_json=as_json)


def sign(
    file: Annotated[Path, typer.Argument(help="The plan.")],
    key: KeyOption,
    name: NameOption,
    as_json: JsonOption = False,
) -> None:
    """Approve a plan: read what it says, then sign it with your own key. No workspace is needed."""
    from birthmark.shell.authority.approvals import read_document, sign_file
    from birthmark.shell.workspace.secrets import SecretsResolver
    from birthmark.wire.approval import parse_plan, plan_text

    data = read_document(file)
    plan = parse_plan(plan_text(data))
    if not as_json:
        emit({}, f"{plan.text()}\nSHA-256 {plan.sha256}", as_json=False)
    sign_file(file, plan.text(), data, name=name, key=key, secrets=SecretsResolver())
    emit({"plan_sha256": plan.sha256, "signed_by": name}, f"{name} approved it in {file}.", as_json=as_json)


def show(
    file: Annotated[Path, typer.Argument(help="The plan.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Show what a plan says, who approved it, and how many are missing by the rule of the workspace."""
    from birthmark.shell.authority.approvals import read_document
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.wire.approval import open_plan, signature_lines
    from birthmark.workflow.authority.approval import rule_in_force

    data = read_document(file)
    with open_workspace(workspace, publish=False) as opened:
        rule = rule_in_force(opened.records)
        made, names = open_plan(data, rule.keys if rule else ())
        used = opened.records.is_approval_used(made.sha256)
    missing = max(0, rule.threshold - len(names)) if rule else None
    strangers = [name for name in signature_lines(data) if name not in names]
    lines = [made.text(), f"SHA-256   {made.sha256}", f"approved  {', '.join(names) or 'by nobody'}"]
    lines += [f"not counted: signature of {name}" for name in strangers]
    lines.append("missing   " + ("no approvers are set in this workspace" if missing is None else str(missing)))
    if used:
        lines.append("It was carried out: the record is in the log.")
    document: dict[str, object] = {
        "plan_sha256": made.sha256,
        "action": made.action,
        "facts": dict(made.facts),
        "approved_by": list(names),
    }
    document |= {"missing": missing, "used": used, "valid_until": made.valid_until, "strangers": strangers}
    emit(document, "\n".join(lines), as_json=as_json)
