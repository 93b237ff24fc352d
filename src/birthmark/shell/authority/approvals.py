"""Dual control in a workspace: every guarded command comes through here before it does anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.durable import create_durably, naming_os_errors, write_durably
from birthmark.errors import Misconfigured, Refused
from birthmark.model.events import utc_text
from birthmark.shell.workspace.plugins import adapter
from birthmark.workflow.authority.approval import (
    ACTIONS,
    Approval,
    ApprovedLedger,
    Rule,
    Wanted,
    approver_facts,
    approver_set_event,
    check_approval,
    is_sensitive,
    make_plan,
    present,
    record_approval,
    rule_in_force,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from birthmark.ports import Ledger, SecretsHandler
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.wire.approval import Plan

__all__ = [
    "approve_first",
    "approver_key",
    "find_approval",
    "is_guarded",
    "read_document",
    "require_approval",
    "set_approvers",
    "sign_file",
    "write_plan",
]

_LARGEST = 1 << 20


def is_guarded(workspace: Workspace) -> bool:
    """Say whether guarded acts need approvals here: the workspace is sensitive, or approvers are set."""
    sensitive = workspace.settings.sensitive or is_sensitive(workspace.ledger)
    return sensitive or rule_in_force(workspace.records) is not None


def find_approval(
    workspace: Workspace, action: str, facts: Mapping[str, str], approval_file: Path | None
) -> Approval | None:
    """Return the approval of an act, not yet on record; None where the workspace asks for none.

    ``Refused``: ``approval.missing``, ``approval.no_rule``, and what ``check_approval`` raises.
    """
    wanted = _wanted(workspace, action, facts)
    if not is_guarded(workspace) and approval_file is None:
        return None
    rule = _rule(workspace)
    if approval_file is None:
        raise Refused(
            "approval.missing",
            f"{rule.threshold} of {len(rule.keys)} people have to approve this: {ACTIONS[action].what}",
            hint="Write the plan with --plan-only FILE, let them sign it, then give it with --approval FILE.",
            action=action,
            approvers=list(rule.names),
        )
    now = present(workspace.ledger, workspace.clock)
    note = read_document(approval_file)
    return check_approval(note, wanted=wanted, rule=rule, records=workspace.records, now=now)


def require_approval(workspace: Workspace, action: str, facts: Mapping[str, str], approval_file: Path | None) -> Ledger:
    """Return the ledger through which the act must be written; its approval is or comes on record with it.

    ``facts``: exactly those of ``ACTIONS[action]``. Where the workspace asks for no approvals this is its ledger.
    Raises what ``find_approval`` raises. Power cut: see ``workflow/authority/approval.py``.
    """
    approval = find_approval(workspace, action, facts, approval_file)
    if approval is None:
        return workspace.ledger
    if ACTIONS[action].resumes:
        record_approval(workspace.ledger, approval, clock=workspace.clock, by=workspace.by)
        return workspace.ledger
    return ApprovedLedger(workspace.ledger, approval, clock=workspace.clock, by=workspace.by)


def approve_first(workspace: Workspace, action: str, facts: Mapping[str, str], approval_file: Path | None) -> None:
    """Put the approval of an act on record, if one is needed, before the act begins. Raises as ``find_approval``.

    For acts that resume, and for those that write nothing themselves. Power cut after it: the same command goes on
    under the same plan where the act resumes; else a new plan is needed.
    """
    approval = find_approval(workspace, action, facts, approval_file)
    if approval is not None:
        record_approval(workspace.ledger, approval, clock=workspace.clock, by=workspace.by)


def write_plan(workspace: Workspace, action: str, facts: Mapping[str, str], path: Path, *, hours: float) -> Plan:
    """Write the plan of an act for people to sign; an existing file is ``Refused("approval.plan.exists")``."""
    wanted = _wanted(workspace, action, facts)
    now = present(workspace.ledger, workspace.clock)
    plan = make_plan(wanted, now=now, life=timedelta(hours=hours), entropy=workspace.entropy)
    try:
        create_durably(path, plan.text().encode(), mode=0o644)
    except FileExistsError:
        raise Refused(
            "approval.plan.exists",
            f"{path} is there already",
            hint="Name a new file: somebody may have signed the other.",
            path=str(path),
        ) from None
    return plan


def set_approvers(workspace: Workspace, threshold: int, vkeys: Sequence[str], approval_file: Path | None) -> None:
    """Set whose approvals count. The first rule is set freely, every later one by approval of the rule before it."""
    sensitive = workspace.settings.sensitive or is_sensitive(workspace.ledger)
    event = approver_set_event(threshold, vkeys, at=utc_text(workspace.clock()), by=workspace.by, sensitive=sensitive)
    ledger: Ledger = workspace.ledger
    first = rule_in_force(workspace.records) is None
    if not first:
        ledger = require_approval(workspace, "approvers.set", approver_facts(threshold, vkeys), approval_file)
    with ledger.transaction() as tx:
        if first and rule_in_force(workspace.records) is not None:
            raise Refused(
                "approval.raced",
                "another process set approvers meanwhile",
                hint="Look at the rule with `birthmark approval list`.",
            )
        tx.append(event)


def _wanted(workspace: Workspace, action: str, facts: Mapping[str, str]) -> Wanted:
    return Wanted(action=action, facts=facts, origin=workspace.settings.origin, by=workspace.by)


def _rule(workspace: Workspace) -> Rule:
    rule = rule_in_force(workspace.records)
    if rule is None:
        raise Refused(
            "approval.no_rule",
            "nobody is named in this workspace whose approval counts",
            hint="Name them first: birthmark approval set --threshold N --approver VKEY …",
        )
    return rule


def read_document(path: Path) -> bytes:
    """Return the content of a plan or transcript; ``Misconfigured("approval.file")`` if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as problem:
        raise Misconfigured(
            "approval.file",
            f"cannot read {path}: {problem.strerror}",
            hint="Name the file that --plan-only or `birthmark approval plan` wrote.",
            path=str(path),
        ) from problem
    return data


@contextmanager
def approver_key(
    uri: str, secrets: SecretsHandler, *, create: bool = False, base: Path = Path()
) -> Iterator[Ed25519PrivateKey]:
    """Yield a person's Ed25519 key, opened or made; it belongs to the person, not to a workspace.

    Relative paths start at ``base``. ``Misconfigured("approval.key")`` if it is of another algorithm.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    keys = adapter("keys", uri)(secrets, base)
    try:
        key = keys.generate(uri, "ed25519") if create else keys.open(uri)
        if not isinstance(key, Ed25519PrivateKey):
            raise Misconfigured(
                "approval.key",
                "people and witnesses sign with Ed25519 keys, and this is another one",
                hint="Make one with `birthmark approval key --new`.",
            )
        yield key
    finally:
        keys.close()


def sign_file(path: Path, text: str, data: bytes, *, name: str, key: str, secrets: SecretsHandler) -> None:
    """Sign a plan or transcript with the key at URI ``key``. Power cut: the file without the signature or with it."""
    from birthmark.wire.approval import add_signature

    with approver_key(key, secrets) as opened:
        signed = add_signature(data, text, name, opened)
    with naming_os_errors(path):
        write_durably(path, signed, mode=0o644)
