"""Dual control as an attacker inside sees it: acting alone, acting twice, acting differently than was approved."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from birthmark.model.events import ApprovalUsed, decode_entry
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace import wiring
from birthmark.shell.workspace.wiring import open_workspace
from support.approvers import OPERATOR, Desk
from support.softhsm import MODULE, PIN, SoftHsm

DEVICE = "TH-0001"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary workspace with an order of 4 whose identities are made."""
    place = tmp_path_factory.mktemp("approvals")
    make_workspace(place / "fab")
    from birthmark.shell.cli.main import main

    where = ["-C", str(place / "fab"), "--json"]
    create = ["order", "create", "lot", "--product", "device", "--quantity", "4", "--first", DEVICE]
    assert main([*create, *where]) == 0
    assert main(["order", "make", "lot", "--processes", "1", *where]) == 0
    return place


@pytest.fixture
def desk(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.setenv("PERSON_SECRET", "each to their own")
    return Desk(tmp_path, capsys)


@pytest.fixture
def guarded(desk: Desk) -> Desk:
    """Two of alice, bob and the operator approve."""
    desk.good(*desk.set_rule(2, desk.person("alice"), desk.person("bob"), desk.person(OPERATOR)))
    return desk


def rework(desk: Desk, *more: str, device: str = DEVICE, reason: str = "antenna broken") -> tuple[str, ...]:
    return ("device", "rework", device, "--reason", reason, "-C", str(desk.fab), *more)


def signed_plan(desk: Desk, *names: str) -> Path:
    plan = desk.place / "rework.plan"
    desk.good(*rework(desk, "--plan-only", str(plan)))
    for name in names:
        desk.sign(plan, name)
    return plan


def approvals(desk: Desk) -> list[tuple[ApprovalUsed, bytes]]:
    with open_workspace(desk.fab, publish=False) as opened:
        entries = [decode_entry(entry) for _, entry in opened.ledger.entries(0, opened.ledger.head().size)]
    return [(event, note) for event, note in entries if isinstance(event, ApprovalUsed)]


def test_an_ordinary_workspace_asks_nobody(desk: Desk) -> None:
    desk.good(*rework(desk))
    assert approvals(desk) == []


def test_two_of_three_approve_a_rework_and_the_log_holds_what_they_signed(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice", "bob")
    assert guarded.good("approval", "show", str(plan), "-C", str(guarded.fab))["missing"] == 0
    guarded.good(*rework(guarded, "--approval", str(plan)))
    ((event, note),) = approvals(guarded)
    assert event.action == "device.rework"
    assert event.approvers == ["alice", "bob"]
    assert note == plan.read_bytes()
    assert guarded.good("audit", "verify", str(guarded.fab))["findings"] == []


def test_nothing_happens_without_a_plan(guarded: Desk) -> None:
    facts = guarded.refused("approval.missing", *rework(guarded))
    assert facts["approvers"] == ["alice", "bob", OPERATOR]
    assert guarded.good("device", "show", DEVICE, "-C", str(guarded.fab))["revoked"] is False


def test_one_of_two_is_too_few(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice")
    assert guarded.good("approval", "show", str(plan), "-C", str(guarded.fab))["missing"] == 1
    facts = guarded.refused("approval.too_few", *rework(guarded, "--approval", str(plan)))
    assert facts["could_sign"] == ["bob", OPERATOR]


def test_a_signature_given_twice_is_one_person(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice")
    sign = ("approval", "sign", str(plan), "--key", guarded.key("alice"), "--name", "alice")
    guarded.refused("approval.signed", *sign)
    line = plan.read_bytes().splitlines(keepends=True)[-1]
    plan.write_bytes(plan.read_bytes() + line)
    guarded.refused("approval.too_few", *rework(guarded, "--approval", str(plan)))


def test_the_key_of_a_stranger_under_the_name_of_an_approver_does_not_count(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice")
    guarded.person("mallory")
    guarded.sign(plan, "bob", using="mallory")
    guarded.refused("approval.too_few", *rework(guarded, "--approval", str(plan)))


def test_a_plan_for_another_device_or_reason_is_refused(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice", "bob")
    facts = guarded.refused("approval.other", *rework(guarded, "--approval", str(plan), device="TH-0002"))
    assert facts["differing"] == ["device"]
    facts = guarded.refused("approval.other", *rework(guarded, "--approval", str(plan), reason="lost"))
    assert facts["differing"] == ["reason"]


def test_a_plan_changed_after_it_was_signed_is_found(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice", "bob")
    plan.write_bytes(plan.read_bytes().replace(DEVICE.encode(), b"TH-0002"))
    guarded.refused("log.note.signature", *rework(guarded, "--approval", str(plan), device="TH-0002"))


def test_a_plan_is_carried_out_once(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice", "bob")
    guarded.good(*rework(guarded, "--approval", str(plan)))
    guarded.refused("approval.used", *rework(guarded, "--approval", str(plan)))
    assert len(approvals(guarded)) == 1


def test_an_act_that_is_refused_uses_no_approval(guarded: Desk) -> None:
    plan = signed_plan(guarded, "alice", "bob")
    guarded.good("device", "scrap", DEVICE, "--reason", "crushed", "-C", str(guarded.fab))
    guarded.refused("device.scrapped", *rework(guarded, "--approval", str(plan)))
    assert approvals(guarded) == []


def test_a_plan_ends_and_a_clock_set_back_does_not_revive_it(guarded: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = signed_plan(guarded, "alice", "bob")
    late = datetime.now(UTC) + timedelta(hours=73)
    monkeypatch.setattr(wiring, "utc_now", lambda: late)
    guarded.refused("approval.expired", *rework(guarded, "--approval", str(plan)))
    guarded.good("device", "scrap", "TH-0004", "--reason", "crushed", "-C", str(guarded.fab))
    monkeypatch.undo()
    monkeypatch.setenv("PERSON_SECRET", "each to their own")
    guarded.refused("approval.expired", *rework(guarded, "--approval", str(plan)))


def test_a_plan_of_another_workspace_is_refused(guarded: Desk) -> None:
    plan = signed_plan(guarded)
    plan.write_text(plan.read_text().replace("origin: fab.example", "origin: other.example"))
    for name in ("alice", "bob"):
        guarded.sign(plan, name)
    assert guarded.refused("approval.other", *rework(guarded, "--approval", str(plan)))["differing"] == ["origin"]


def test_the_operator_does_not_approve_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by telling the environment that somebody else gives the command."""
    desk.good(*desk.set_rule(1, desk.person("alice"), desk.person(OPERATOR)))
    plan = signed_plan(desk, OPERATOR)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "alice")
    desk.refused("approval.operator_alone", *rework(desk, "--approval", str(plan)))
    desk.sign(plan, "alice")
    desk.good(*rework(desk, "--approval", str(plan)))


def test_approvers_change_only_by_approval_of_the_old_rule(guarded: Desk) -> None:
    alone = guarded.set_rule(1, guarded.person("mallory"), guarded.person("eve"))
    guarded.refused("approval.missing", *alone)
    plan = guarded.place / "rule.plan"
    guarded.good(*alone, "--plan-only", str(plan))
    for name in ("mallory", "eve"):
        guarded.sign(plan, name)
    guarded.refused("approval.too_few", *alone, "--approval", str(plan))
    for name in ("alice", "bob"):
        guarded.sign(plan, name)
    guarded.good(*alone, "--approval", str(plan))
    assert guarded.good("approval", "list", "-C", str(guarded.fab))["approvers"] == ["mallory", "eve"]


def test_one_person_with_two_keys_or_one_key_under_two_names_is_no_rule(desk: Desk) -> None:
    alice = desk.person("alice")
    again = desk.good("approval", "key", "--key", desk.key("alice"), "--name", "bob")["vkey"]
    desk.refused("approval.threshold", *desk.set_rule(2, alice, again))
    (desk.place / "people" / "alice.pem").rename(desk.place / "people" / "old.pem")
    second = desk.good("approval", "key", "--key", desk.key("alice"), "--name", "alice@acme", "--new")["vkey"]
    desk.refused("approval.threshold", *desk.set_rule(2, alice, second))


def test_an_order_is_approved_with_its_devices_and_its_making_is_free(guarded: Desk) -> None:
    def create(first: str, *more: str) -> tuple[str, ...]:
        named = ("--product", "device", "--quantity", "3", "--first", first)
        return ("order", "create", "lot2", *named, "-C", str(guarded.fab), *more)

    plan = guarded.place / "order.plan"
    guarded.good(*create("NX-0001", "--plan-only", str(plan)))
    for name in ("alice", "bob"):
        guarded.sign(plan, name)
    facts = guarded.refused("approval.other", *create("NX-0002", "--approval", str(plan)))
    assert facts["differing"] == ["devices_sha256"]
    guarded.good(*create("NX-0001", "--approval", str(plan)))
    profile = guarded.fab / "profiles" / "tls-client.toml"
    reviewed = profile.read_text()
    make = ("order", "make", "lot2", "--processes", "1", "-C", str(guarded.fab))
    profile.write_text(reviewed.replace('description = "', 'description = "another '))
    assert guarded.refused("order.terms", *make)["differing"] == ["profile_hash"]
    profile.write_text(reviewed)
    settings = guarded.fab / "birthmark.toml"
    approved = settings.read_text()
    settings.write_text(approved.replace('maker = "Example Devices"', 'maker = "Mallory"'))
    assert guarded.refused("order.terms", *make)["differing"] == ["values_sha256"]
    settings.write_text(approved)
    guarded.good(*make)


def test_an_approver_signs_with_a_key_that_stays_in_a_token(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hsm = SoftHsm(tmp_path / "hsm")
    for name, value in {**hsm.environment, "PIN": PIN}.items():
        monkeypatch.setenv(name, value)
    hsm.make_token("alice")
    key = hsm.uri("alice", "approver")
    alice = desk.good("approval", "key", "--key", key, "--name", "alice", "--new")["vkey"]
    desk.good(*desk.set_rule(2, alice, desk.person("bob")))
    plan = signed_plan(desk, "bob")
    desk.good("approval", "sign", str(plan), "--key", key, "--name", "alice")
    desk.good(*rework(desk, "--approval", str(plan)))
    assert MODULE.exists()
