"""Dual control: what needs approvals, whether a plan has them, and the record that it was used.

Order: check the signed plan against exactly what is about to be done; record ``approval_used`` with the signed plan;
do it. Where the act can be repeated without doing more (a ceremony, a delegation, a bundle), the record stands in a
transaction of its own and a rerun after a power cut goes on under the same plan. Where it cannot (rework, an order,
approvers), the record is the first entry of the act's own transaction: a power cut leaves both or neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from birthmark.errors import Misconfigured, Refused
from birthmark.model.events import ApprovalUsed, ApproversSet, WorkspaceCreated, decode_entry, utc_text
from birthmark.model.records import LogHead
from birthmark.ports import Clock, Entropy, Ledger, SiteRecords, Transaction
from birthmark.tlog.note import VerifierKey, parse_vkey
from birthmark.wire.approval import Plan, open_plan

__all__ = [
    "ACTIONS",
    "MAX_LIFE",
    "Action",
    "Approval",
    "ApprovedLedger",
    "Rule",
    "Wanted",
    "approver_facts",
    "approver_set_event",
    "check_approval",
    "is_sensitive",
    "make_plan",
    "present",
    "record_approval",
    "rule_in_force",
]

MAX_LIFE = timedelta(days=30)
"""An approval does not outlive this: who signed should still know why."""


@dataclass(frozen=True, slots=True)
class Action:
    """An act that needs approvals. ``facts``: the arguments that its plan states, all of them.

    ``resumes``: doing it again does no more, so that an interrupted run goes on under the plan that it has used.
    """

    facts: tuple[str, ...]
    what: str
    resumes: bool = False


ACTIONS: Mapping[str, Action] = {
    "approvers.set": Action(("approvers", "threshold"), "change whose approvals count"),
    "ceremony.run": Action(("ceremony_sha256", "title"), "make, delegate, replace or destroy CA keys", resumes=True),
    "ca.import": Action(("ca", "certificate_sha256"), "take in a CA that somebody else certified", resumes=True),
    "order.create": Action(
        (
            "ca",
            "devices_sha256",
            "key_algorithm",
            "key_origin",
            "order",
            "product",
            "profile_hash",
            "quantity",
            "values_sha256",
        ),
        "let the CA sign for the devices of an order; making and provisioning them is then free",
    ),
    "site.delegate": Action(("ca", "request_sha256", "site"), "give a site an issuing CA of its own", resumes=True),
    "preload.ingest": Action(("manifest_sha256", "vendor"), "trust what a chip vendor says it preloaded", resumes=True),
    "preload.delegate": Action(
        ("ca", "quota", "request_sha256", "vendor"), "let a chip vendor sign below a CA of ours", resumes=True
    ),
    "bundle.seal": Action(("order", "site"), "send private keys of an order, sealed, to a site", resumes=True),
    "bundle.open": Action(("bundle", "manifest_sha256", "order"), "take a bundle's keys into stock", resumes=True),
    "access.grant": Action(("name", "role", "spki_sha256"), "let a person in to the service", resumes=True),
    "ca.possession": Action(
        ("cas", "cloud"), "let CAs sign certificates that prove to a cloud that their keys are ours", resumes=True
    ),
    "private.export": Action(("recipient", "what"), "let private keys leave the workspace"),
    "device.rework": Action(("device", "reason"), "give a device a second identity"),
}
"""Every guarded act. Needed in a sensitive workspace, and in any workspace from when approvers are set."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose approvals count: ``threshold`` of ``keys``."""

    threshold: int
    keys: tuple[VerifierKey, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(key.name for key in self.keys)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is about to be done, and by whom (``by``: account of the operator)."""

    action: str
    facts: Mapping[str, str]
    origin: str
    by: str


@dataclass(frozen=True, slots=True)
class Approval:
    """A plan that has its approvals. ``used``: on record already (an interrupted act goes on)."""

    plan: Plan
    approvers: tuple[str, ...]
    note: bytes
    used: bool

    def event(self, *, at: str, by: str) -> ApprovalUsed:
        """Return the record of its use; its attachment is ``note``."""
        return ApprovalUsed(
            at=at, action=self.plan.action, plan_sha256=self.plan.sha256, approvers=list(self.approvers), by=by
        )


def present(ledger: Ledger, clock: Clock) -> datetime:
    """Return the moment at which an approval is judged: the clock's, but never before the last entry of the log."""
    size = ledger.head().size
    now = clock()
    for _, entry in ledger.entries(size - 1, 1) if size else ():
        event, _ = decode_entry(entry)
        now = max(now, datetime.fromisoformat(event.at))
    return now


def is_sensitive(ledger: Ledger) -> bool:
    """Say whether the workspace was made sensitive: entry 0 decides, settings can only add to it."""
    for _, entry in ledger.entries(0, 1):
        event, _ = decode_entry(entry)
        return isinstance(event, WorkspaceCreated) and event.sensitive
    return False


def rule_in_force(records: SiteRecords) -> Rule | None:
    """Return the rule of the last ``approvers_set``, None before the first."""
    found = records.approvers()
    return None if found is None else Rule(found[0], tuple(parse_vkey(vkey) for vkey in found[1]))


def make_plan(wanted: Wanted, *, now: datetime, life: timedelta, entropy: Entropy) -> Plan:
    """Return a new plan; ``Misconfigured``: ``approval.action``, ``approval.facts``, ``approval.life``."""
    action = ACTIONS.get(wanted.action)
    if action is None:
        raise Misconfigured(
            "approval.action",
            f"no act {wanted.action[:60]!r} is approved by anybody",
            hint=f"Acts: {', '.join(ACTIONS)}.",
            action=wanted.action[:60],
        )
    if set(wanted.facts) != set(action.facts):
        raise Misconfigured(
            "approval.facts",
            f"a plan for {wanted.action} states {', '.join(action.facts)}",
            hint="Let the command itself write the plan with --plan-only.",
            given=sorted(wanted.facts),
        )
    if not timedelta() < life <= MAX_LIFE:
        raise Misconfigured(
            "approval.life",
            f"an approval of {life} is none",
            hint=f"Let it end within {MAX_LIFE.days} days.",
            hours=life.total_seconds() / 3600,
        )
    return Plan(
        action=wanted.action,
        origin=wanted.origin,
        facts=wanted.facts,
        valid_until=utc_text(now + life),
        nonce=entropy(16).hex(),
    )


def check_approval(note: bytes, *, wanted: Wanted, rule: Rule, records: SiteRecords, now: datetime) -> Approval:
    """Return the approval in a file if it is one of exactly ``wanted``.

    Raises ``Refused``: ``approval.other`` (another act, place or fact), ``approval.expired``, ``approval.used``,
    ``approval.too_few``, ``approval.operator_alone``; ``Tampered`` as ``wire.approval.open_plan`` does.
    """
    plan, names = open_plan(note, rule.keys)
    _require_same(plan, wanted)
    used = records.is_approval_used(plan.sha256)
    if used and not ACTIONS[plan.action].resumes:
        raise Refused(
            "approval.used",
            "this plan was carried out already",
            hint="A plan is used once: make a new one and let it be signed.",
            plan_sha256=plan.sha256,
        )
    until = datetime.fromisoformat(plan.valid_until)
    if not used and not now < until <= now + MAX_LIFE:
        raise Refused(
            "approval.expired",
            f"this plan was valid until {plan.valid_until}, and it is {utc_text(now)}",
            hint=f"Make a new plan and let it be signed; none is longer than {MAX_LIFE.days} days.",
            valid_until=plan.valid_until,
            now=utc_text(now),
        )
    _require_quorum(names, rule, wanted.by)
    return Approval(plan, names, note, used)


def _require_same(plan: Plan, wanted: Wanted) -> None:
    differing = [name for name in ("action", "origin") if getattr(plan, name) != getattr(wanted, name)]
    names = sorted({*plan.facts, *wanted.facts})
    differing += [name for name in names if plan.facts.get(name) != wanted.facts.get(name)]
    if differing:
        raise Refused(
            "approval.other",
            f"what was approved is not what is about to be done: {', '.join(differing)}",
            hint="Run exactly what the plan says, or let a new plan be signed; `birthmark approval show` shows it.",
            differing=differing,
        )


def _require_quorum(names: Sequence[str], rule: Rule, by: str) -> None:
    signed = {key.public for key in rule.keys if key.name in names}
    if len(signed) < rule.threshold:
        raise Refused(
            "approval.too_few",
            f"{len(signed)} of {rule.threshold} approvals are there",
            hint="Let the others sign the file: `birthmark approval sign FILE --key URI --name NAME`.",
            signed=list(names),
            could_sign=[name for name in rule.names if name not in names],
        )
    if all(_person(name) == by for name in names):
        raise Refused(
            "approval.operator_alone",
            f"{by} gives the command and is the only one who approved it",
            hint="Let a second person sign the plan, or run it from another account.",
            by=by,
        )


def _person(name: str) -> str:
    """Return the account in the name of an approver's key: what stands before @."""
    return name.partition("@")[0]


def record_approval(ledger: Ledger, approval: Approval, *, clock: Clock, by: str) -> None:
    """Record the use of a plan in a transaction of its own, unless it is on record. Durable on return."""
    if approval.used:
        return
    with ledger.transaction() as tx:
        tx.append(approval.event(at=utc_text(clock()), by=by), approval.note)


class ApprovedLedger:
    """A ledger whose first transaction begins with the record of an approval: both are kept, or neither is."""

    def __init__(self, ledger: Ledger, approval: Approval, *, clock: Clock, by: str) -> None:
        self._ledger = ledger
        self._approval = approval
        self._clock = clock
        self._by = by
        self._recorded = approval.used

    def transaction(self) -> AbstractContextManager[Transaction]:
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with self._ledger.transaction() as tx:
            if not self._recorded:
                tx.append(self._approval.event(at=utc_text(self._clock()), by=self._by), self._approval.note)
            yield tx
        self._recorded = True

    def entries(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        return self._ledger.entries(first, count)

    def head(self) -> LogHead:
        return self._ledger.head()

    def close(self) -> None:
        self._ledger.close()


def approver_set_event(threshold: int, vkeys: Sequence[str], *, at: str, by: str, sensitive: bool) -> ApproversSet:
    """Return the event of a rule; ``Refused("approval.threshold")`` unless its keys are of different people."""
    keys = [parse_vkey(vkey) for vkey in vkeys]
    persons = {_person(key.name) for key in keys}
    if not 1 <= threshold <= len(keys) or len(persons) < len(keys) or len({key.public for key in keys}) < len(keys):
        raise Refused(
            "approval.threshold",
            f"{threshold} of {len(keys)} approvers is no rule",
            hint="Name each person once, each with a key of their own, and ask for at least one of them.",
            threshold=threshold,
            approvers=[key.name for key in keys],
        )
    if sensitive and len(keys) < 2:
        raise Refused(
            "approval.one_person",
            "in a sensitive workspace one approver is too few",
            hint="Name at least two: one of them may be the operator, who cannot approve alone.",
            approvers=[key.name for key in keys],
        )
    return ApproversSet(at=at, threshold=threshold, vkeys=list(vkeys), by=by)


def approver_facts(threshold: int, vkeys: Sequence[str]) -> dict[str, str]:
    """Return what a plan states about a new rule: the threshold, and names and digest of the keys."""
    digest = sha256("\n".join(vkeys).encode()).hexdigest()
    names = " ".join(sorted(parse_vkey(vkey).name for vkey in vkeys))
    return {"threshold": str(threshold), "approvers": f"{names} sha256:{digest}"}
