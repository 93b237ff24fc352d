"""Creating an order: every device by name, once, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.errors import Refused
from birthmark.model.events import DevicesOrdered, decode_entry
from birthmark.model.ids import OrderId
from birthmark.pki.profile import load_preset
from birthmark.workflow.orders import order as ordering
from birthmark.workflow.orders.order import CHUNK_SIZE, NewOrder, create_order, serial_range
from support.ledger import TestClock, create_sqlite, serials

PROFILE = load_preset("tls-client")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())
    yield made
    made.close()


def create(
    ledger: SqliteLedger, devices: Any, *, name: str = "a", profile: Any = PROFILE, algorithm: str = "p256"
) -> int:
    order = NewOrder(
        order=OrderId(name), product="probe", profile=profile, key_algorithm=algorithm, key_origin="injected",
        ca="issuing", by="tester",
    )  # fmt: skip
    return create_order(ledger, order, devices, clock=TestClock())


def refusal(code: str) -> Any:
    return pytest.raises(Refused, check=lambda refused: refused.code == code)


def require_nothing(ledger: SqliteLedger) -> None:
    assert ledger.head().size == 1
    assert ledger.records.orders() == []


@pytest.mark.parametrize(
    ("quantity", "chunks"), [(1, [1]), (CHUNK_SIZE, [512]), (CHUNK_SIZE + 1, [512, 1]), (1300, [512, 512, 276])]
)
def test_devices_stand_in_chunks_in_their_order(ledger: SqliteLedger, quantity: int, chunks: list[int]):
    names = list(serial_range("TH-00001", quantity))
    assert create(ledger, iter(names)) == quantity
    found = ledger.records.chunks("a", "ordered", -1, 99)
    assert [chunk.count for chunk in found] == chunks
    listed: list[str] = []
    for chunk in found:
        ((_, entry),) = ledger.entries(chunk.seq, 1)
        event, attachment = decode_entry(entry)
        assert event == DevicesOrdered(at=event.at, order="a", chunk=chunk.chunk, first=len(listed), count=chunk.count)
        listed += attachment.decode().split("\n")
    assert listed == names


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "a b",
        "a\n",
        "a\nb",
        "a\0",
        "\u0661",
        "ä",
        "-a",
        "a-",
        "x" * 65,
        "a/b",
        "a,b",
        "\u200bA",
        "A\u0301",
        "a\r",
    ],
)
def test_a_name_that_is_an_attack_is_refused_and_shown_harmless(ledger: SqliteLedger, bad: str):
    with refusal("order.serial.malformed") as caught:
        create(ledger, ["GOOD-1", bad, "GOOD-2"])
    (shown,) = caught.value.facts["device_serials"]
    assert shown == ascii(bad[:80])
    assert str(caught.value).isprintable()
    require_nothing(ledger)


def test_all_culprits_are_counted_and_the_first_are_named(ledger: SqliteLedger):
    with refusal("order.serial.malformed") as caught:
        create(ledger, [f"bad {number}" for number in range(50)])
    assert len(caught.value.facts["device_serials"]) == 20
    assert "50 device serials" in caught.value.message


def test_the_same_serial_twice(ledger: SqliteLedger):
    with refusal("order.serial.duplicate") as caught:
        create(ledger, ["B", "A", "A", "C", "B"])
    assert caught.value.facts["device_serials"] == ["A", "B"]
    require_nothing(ledger)


def test_a_serial_of_another_order(ledger: SqliteLedger):
    create(ledger, serials("A", 600))
    with refusal("order.serial.duplicate") as caught:
        create(ledger, [*serials("B", 700), "A-00599"], name="b")
    assert caught.value.facts == {"device_serials": ["A-00599"], "orders": ["a"]}
    assert ledger.records.order("b") is None
    create(ledger, serials("B", 700), name="b")


def test_serials_that_differ_in_case_alone_where_the_profile_forbids_it(ledger: SqliteLedger):
    rule = PROFILE.device_serial
    if rule is None:
        rule = msgspec.structs.replace(load_preset("azure-dps").device_serial)  # type: ignore[type-var]
    strict = msgspec.structs.replace(PROFILE, device_serial=msgspec.structs.replace(rule, unique="case-insensitive"))
    with refusal("order.serial.duplicate"):
        create(ledger, ["Ab1", "aB1"], profile=strict)
    assert create(ledger, ["Ab1", "aB2"], profile=strict) == 2


@pytest.mark.parametrize("quantity", [0, 31])
def test_an_order_has_a_size(ledger: SqliteLedger, quantity: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ordering, "_MAX_ORDER", 30)
    with refusal("order.quantity"):
        create(ledger, serials("A", quantity))
    require_nothing(ledger)


def test_an_endless_list_is_not_read_to_its_end(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ordering, "_MAX_ORDER", 30)
    endless = (f"A-{number}" for number in range(10**9))
    with refusal("order.quantity"):
        create(ledger, endless)
    assert next(endless) == "A-31"


def test_a_key_algorithm_that_the_profile_does_not_allow(ledger: SqliteLedger):
    with refusal("order.algorithm"):
        create(ledger, ["A"], algorithm="rsa512")
    require_nothing(ledger)


def test_an_order_is_not_created_twice(ledger: SqliteLedger):
    create(ledger, ["A"])
    with refusal("ledger.exists"):
        create(ledger, ["B"])


class TestSerialRange:
    @given(st.from_regex(r"[A-Z-]{0,4}", fullmatch=True), st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 40))
    def test_it_counts_and_keeps_its_width(self, head: str, first: int, width: int, quantity: int):
        start = f"{head}{first:0{width}}"
        last = str(first + quantity - 1)
        if len(last) > max(width, len(str(first))):
            with refusal("order.range.malformed"):
                serial_range(start, quantity)
            return
        names = list(serial_range(start, quantity))
        assert len(set(names)) == quantity
        assert {len(name) for name in names} == {len(start)}
        assert names[0] == start
        assert names == sorted(names)

    @pytest.mark.parametrize(
        ("first", "quantity"),
        [("ABC", 1), ("", 1), ("A1B", 1), ("A99", 2), ("A1", 0), ("A1", -5), ("A\u0663", 1), ("A1\n", 1), ("A\n1", 1),
         ("9" * 18, 2)],
    )  # fmt: skip
    def test_what_cannot_be_counted_is_refused(self, first: str, quantity: int):
        with refusal("order.range.malformed"):
            serial_range(first, quantity)

    def test_digits_far_in_front_stay(self):
        assert list(serial_range("2026X-0998", 2)) == ["2026X-0998", "2026X-0999"]
