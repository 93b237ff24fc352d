"""Rework: never without a reason, never two identities, never an old key left to be opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.workflow.orders.order import NewOrder, create_order
from support.stationworld import BORN, POOLED, Factory, Line, build_factory, events_of


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("rework") / "factory")


@pytest.fixture
def line(built: Factory, tmp_path: Path) -> Iterator[Line]:
    with built.copy(tmp_path / "factory").line() as opened:
        yield opened


def code_of(line: Line, device_serial: str, reason: str = "test", verb: str = "rework") -> str:
    with pytest.raises(Refused) as caught:
        getattr(line.reworks(), verb)(device_serial, reason=reason, by="tester")
    return caught.value.code


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201])
def test_rework_without_a_reason_is_refused(line: Line, reason: str) -> None:
    assert code_of(line, POOLED[0], reason) == "rework.reason"
    assert code_of(line, POOLED[0], reason, "scrap") == "rework.reason"
    assert line.records.device(POOLED[0]).state is DeviceState.POOLED


def test_nothing_to_rework(line: Line) -> None:
    assert code_of(line, BORN[0]) == "device.no_identity"
    assert code_of(line, "SN-9999") == "device.unknown"
    assert code_of(line, "SN 9999") == "device.serial.malformed"


def test_unused_pooled_identity_is_replaced_and_its_key_erased(line: Line) -> None:
    before = line.records.device(POOLED[0])
    after = line.reworks().rework(POOLED[0], reason="leaked", by="tester")
    assert after.state is DeviceState.POOLED
    assert after.intent != before.intent
    with line.ledger.transaction() as tx:
        assert tx.vault.read(before.intent, before.position) is None
        assert tx.vault.read(after.intent, after.position) is not None
    kinds = [type(event) for event in events_of(line.ledger, POOLED[0])]
    assert kinds == [e.Issued, e.Revoked, e.KeyErased, e.Superseded, e.Reserved, e.Issued]


def test_rework_twice_revokes_two_and_leaves_one(line: Line) -> None:
    for _ in range(2):
        line.reworks().rework(POOLED[0], reason="again", by="tester")
    events = events_of(line.ledger, POOLED[0])
    revoked = [event.cert_serial for event in events if isinstance(event, e.Revoked)]
    assert len(set(revoked)) == len(revoked) == 2
    assert line.provision(POOLED[0]).cert_serial not in revoked


def test_scrap_revokes_once_and_for_all(line: Line) -> None:
    outcome = line.provision(POOLED[0])
    line.reworks().scrap(POOLED[0], reason="burnt", by="tester")
    assert line.records.is_revoked(bytes.fromhex(outcome.cert_serial))
    assert code_of(line, POOLED[0], verb="scrap") == "device.state"
    assert code_of(line, POOLED[0]) == "device.scrapped"


def test_device_of_an_order_that_is_not_made_cannot_be_scrapped_silently(line: Line) -> None:
    order = line.records.order("pooled")
    new = NewOrder(
        order="later", product=order.product, profile=line.permits._profile(order.profile), key_algorithm="p256",
        key_origin="injected", ca="issuing", by="test",
    )  # fmt: skip
    create_order(line.ledger, new, ["SN-5000"], clock=line.clock)
    assert code_of(line, "SN-5000", verb="scrap") == "device.not_made"
    assert code_of(line, "SN-5000") == "device.no_identity"
