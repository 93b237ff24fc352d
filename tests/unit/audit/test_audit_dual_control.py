"""Dual control, read from the log by itself: what was done without the approval of exactly that."""

from __future__ import annotations

from typing import Any

import pytest

from birthmark.adapters.audit.dualcontrol import check_dual_control
from birthmark.adapters.audit.findings import Findings

AT = "2026-11-25T10:00:00.000Z"
UNTIL = "2026-11-26T10:00:00.000Z"
Entry = tuple[int, dict[str, Any], bytes]


def plan(action: str, until: str = UNTIL, **facts: str) -> bytes:
    lines = ["birthmark-approval-plan/1", f"action: {action}", "origin: hq/log", f"valid-until: {until}", "nonce: 00"]
    lines += [f"  {name}: {value}" for name, value in sorted(facts.items())]
    return ("\n".join(lines) + "\n\n\u2014 alice AAAA\n").encode()


def approval(action: str, /, *, by: str = "olga", approvers: tuple[str, ...] = ("alice", "bob"), until: str = UNTIL,
             **facts: str) -> tuple[dict[str, Any], bytes]:  # fmt: skip
    document = {"type": "approval_used", "at": AT, "action": action, "plan_sha256": "", "by": by}
    return {**document, "approvers": list(approvers)}, plan(action, until, **facts)


def event(kind: str, /, **members: Any) -> tuple[dict[str, Any], bytes]:
    return {"type": kind, "at": AT, "by": "olga", **members}, b""


def codes(*entries: tuple[dict[str, Any], bytes], sensitive: bool = True, role: str = "authority") -> list[str]:
    first = event("workspace_created", sensitive=sensitive, role=role)
    findings = Findings()
    log = [(seq, document, note) for seq, (document, note) in enumerate([first, *entries])]
    check_dual_control(log, findings)
    return [finding.code for finding in findings.kept]


REWORK = {"device": "TH-1", "reason": "antenna"}
SEAL = {"order": "lot", "site": "fab"}
OPEN = {"bundle": "b1", "manifest_sha256": "00", "order": "lot"}
CA = {"ca": "x", "kind": "issuing", "cert_sha256": "aa"}
ORDER = {"order": "lot", "product": "p", "key_algorithm": "p256", "key_origin": "device", "ca": "x", "quantity": 3}
PERSON = {"name": "ada", "role": "auditor", "spki_sha256": "ff"}
ACTS = {
    "bundle_sealed": (event("bundle_sealed", **SEAL), approval("bundle.seal", **SEAL)),
    "bundle_opened": (event("bundle_opened", **OPEN), approval("bundle.open", **OPEN)),
    "superseded": (event("superseded", **REWORK), approval("device.rework", **REWORK)),
    "order_created": (
        event("order_created", profile="h", **ORDER),
        approval("order.create", profile_hash="h", **{name: str(value) for name, value in ORDER.items()}),
    ),
    "ca_created by ceremony": (event("ca_created", **CA), approval("ceremony.run", title="t")),
    "ca_created by import": (event("ca_created", **CA), approval("ca.import", ca="x", certificate_sha256="aa")),
    "ca_created for a site": (event("ca_created", site="fab", **CA), approval("site.delegate", ca="x", site="fab")),
    "ca_key_destroyed": (event("ca_key_destroyed", ca="x"), approval("ceremony.run", title="t")),
    "access_granted": (event("access_granted", **PERSON), approval("access.grant", **PERSON)),
}
"""Act, and the approval that it needs."""


@pytest.mark.parametrize("name", ACTS)
def test_an_act_stands_behind_its_approval(name: str) -> None:
    act, approved = ACTS[name]
    assert codes(approved, act) == []
    assert codes(act) == ["audit.approval.missing"]
    assert codes(act, approved) == ["audit.approval.missing"]
    assert codes(act, sensitive=False) == []


@pytest.mark.parametrize("name", [name for name in ACTS if "ceremony" not in name and "destroyed" not in name])
def test_an_approval_of_something_else_does_not_count(name: str) -> None:
    act, (document, note) = ACTS[name]
    changed = note.replace(b": lot\n", b": other\n").replace(b": x\n", b": y\n").replace(b": TH-1\n", b": TH-2\n")
    assert codes((document, changed.replace(b": ada\n", b": bob\n")), act) == ["audit.approval.missing"]


def test_one_plan_is_for_one_rework_and_for_a_bundle_that_is_gone_on_with() -> None:
    act, approved = ACTS["superseded"]
    assert codes(approved, act, act) == ["audit.approval.missing"]
    act, approved = ACTS["bundle_sealed"]
    assert codes(approved, act, act) == []


def test_a_workspace_is_guarded_from_its_first_rule_on() -> None:
    rule = event("approvers_set", threshold=2, vkeys=[])
    act, _ = ACTS["superseded"]
    assert codes(act, rule, sensitive=False) == []
    assert codes(rule, act, sensitive=False) == ["audit.approval.missing"]
    assert codes(rule, rule, sensitive=False) == ["audit.approval.missing"]
    assert codes(rule, approval("approvers.set", threshold="2"), rule, sensitive=False) == []


@pytest.mark.parametrize("until", [AT, "2026-11-25T09:59:59.999Z", "2026-12-25T10:00:00.001Z", "soon", "2026-11-26"])
def test_a_plan_counts_before_its_end_and_for_30_days(until: str) -> None:
    act, _ = ACTS["superseded"]
    assert codes(approval("device.rework", until=until, **REWORK), act) == ["audit.approval.expired"]


def test_an_operator_does_not_approve_alone() -> None:
    act, _ = ACTS["superseded"]
    alone = approval("device.rework", approvers=("olga", "olga@token"), **REWORK)
    assert codes(alone, act) == ["audit.approval.alone"]
    assert codes(approval("device.rework", approvers=("olga", "bob"), **REWORK), act) == []


def test_a_site_is_given_its_orders_by_bundles_and_its_cas_by_grants() -> None:
    order = event("order_created", profile="h", **ORDER)
    assert codes(order, role="site") == ["audit.approval.missing"]
    assert codes(ACTS["bundle_opened"][1], order, event("ca_created", **CA), role="site") == []
