"""The laws of ``ports.Ledger``, ``Transaction``, ``Vault``, ``Records``, ``Publisher``, for every ledger there is."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.model.records import LogHead, OrderTotals, Publication
from birthmark.tlog.merkle import Frontier
from birthmark.tlog.tiles import decode_entries
from support.ledger import (
    AT,
    ORIGIN,
    SITE_PREFIX,
    SLOT,
    Author,
    TestClock,
    create_sqlite,
    issued_entry,
    keys_of,
    make_records,
    pack,
    serials,
    slot_of,
)
from support.postgres import create_postgres, open_postgres

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Case:
    """One kind of ledger: ``open`` gives one more connection to the same one."""

    clock: TestClock
    open: Callable[[], Any]
    replay: Callable[[Any], dict[str, int]]


def _sqlite(directory: Path, request: pytest.FixtureRequest) -> Case:
    path, clock = directory / "ledger" / "ledger.db", TestClock()
    create_sqlite(path, clock).close()
    return Case(
        clock, lambda: SqliteLedger(path, clock=clock), lambda it: replay_ledger(it, progress=lambda count: None)
    )


def _postgres(directory: Path, request: pytest.FixtureRequest) -> Case:
    """Every connection has a directory of its own, as on machines of their own."""
    conninfo, clock = request.getfixturevalue("postgres").conninfo(), TestClock()
    create_postgres(conninfo, directory / "0", clock).close()
    numbers = itertools.count(1)
    return Case(
        clock,
        lambda: open_postgres(conninfo, directory / str(next(numbers)), clock),
        lambda it: replay_ledger(it, progress=lambda count: None),
    )


KINDS: dict[str, Callable[[Path, pytest.FixtureRequest], Case]] = {"sqlite": _sqlite, "postgres": _postgres}


@pytest.fixture(params=list(KINDS))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return KINDS[request.param](tmp_path, request)


@pytest.fixture
def ledger(case: Case) -> Iterator[Any]:
    opened = case.open()
    yield opened
    case.replay(opened)
    opened.close()


@pytest.fixture
def author(ledger: Any) -> Author:
    return Author(ledger)


def refusal(code: str) -> Any:
    return pytest.raises(Refused, check=lambda refused: refused.code == code)


def break_off(ledger: Any, act: Callable[[Any], None]) -> None:
    """Act in a transaction that is interrupted before its end."""

    def interrupted() -> None:
        with ledger.transaction() as tx:
            act(tx)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def all_entries(ledger: Any) -> list[bytes]:
    return [entry for _, entry in ledger.entries(0, ledger.head().size)]


class TestTransaction:
    def test_the_log_begins_with_its_workspace(self, ledger: Any):
        ((seq, entry),) = ledger.entries(0, 10)
        event, attachment = e.decode_entry(entry)
        assert seq == 0
        assert isinstance(event, e.WorkspaceCreated)
        assert attachment == b""
        assert ledger.head() == LogHead(size=1, published=0)

    def test_there_is_one_workspace_for_ever(self, author: Author):
        again = e.WorkspaceCreated(at=AT, workspace="x", origin="x", site_prefix="0304", software="1", by="x")
        with refusal("ledger.exists"):
            author.say(again)

    def test_numbers_are_those_of_the_log(self, ledger: Any):
        with ledger.transaction() as tx:
            numbers = [tx.append(e.Rejected(at=AT, station="s", code=f"a.{at}")) for at in range(5)]
        assert numbers == [1, 2, 3, 4, 5]
        assert [e.decode_entry(entry)[0].code for _, entry in ledger.entries(1, 9)] == [f"a.{at}" for at in range(5)]

    def test_what_ended_is_there_for_others(self, case: Case, author: Author):
        author.make("a", serials("A", 6))
        other = case.open()
        assert other.head().size == author.ledger.head().size
        assert other.records.device("A-00005").state is DeviceState.POOLED
        other.close()

    def test_what_broke_off_leaves_nothing(self, case: Case, author: Author):
        author.order("a", serials("A", 4))
        before = all_entries(author.ledger)

        def reserve(tx: Any) -> None:
            (prefix,) = tx.serial_prefixes(1)
            event = e.Reserved(at=AT, order="a", count=4, serial_prefix=prefix.hex(), template="t", chunk=0)
            tx.append(event, make_records(4))

        break_off(author.ledger, reserve)
        assert all_entries(author.ledger) == before
        assert author.ledger.records.chunks("a", "ordered", -1, 9)
        assert author.ledger.records.intents("reserved") == []

    def test_a_refused_event_takes_its_transaction_with_it(self, author: Author):
        """Also if somebody catches the refusal inside: half of its rows may be changed."""
        author.order("a", serials("A", 4))
        before = all_entries(author.ledger)
        with refusal("device.state"), author.ledger.transaction() as tx:
            tx.append(e.Rejected(at=AT, station="s", code="x.y"))
            with pytest.raises(Refused):
                tx.append(e.Drawn(at=AT, device="A-00000", station="s", attempt="attempt-1"))
        assert all_entries(author.ledger) == before

    def test_an_entry_too_long_is_refused(self, author: Author):
        with refusal("log.entry.too_long"):
            author.say(e.Rejected(at=AT, station="s", code="x.y"), attachment=bytes(65536))
        longest = 65535 - len(e.encode_entry(e.Rejected(at=AT, station="s", code="x.y")))
        author.say(e.Rejected(at=AT, station="s", code="x.y"), attachment=bytes(longest))

    def test_text_that_is_no_text_is_refused(self, author: Author):
        with refusal("log.entry.text"):
            author.say(e.Rejected(at=AT, station="\udcff", code="x.y"))

    def test_heads_only_grow_over_many_rows(self, author: Author):
        sizes = [author.ledger.head().size]
        for number in range(3):
            author.make(f"o{number}", serials(f"S{number}", 9))
            sizes.append(author.ledger.head().size)
        assert sizes == sorted(set(sizes))
        assert [entry for _, entry in sorted(author.said)] == all_entries(author.ledger)[1:]


class TestEntries:
    @pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 999), (3, 4), (7, 1), (9, 30), (40, 9), (999, 5), (5, 0)])
    def test_ranges_are_what_lists_say(self, author: Author, first: int, count: int):
        author.make("a", serials("A", 10))
        author.order("b", serials("B", 21), chunk=2)
        whole = all_entries(author.ledger)
        wanted = whole[first : first + count]
        assert list(author.ledger.entries(first, count)) == list(enumerate(wanted, start=first))
        leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in wanted]
        assert author.ledger.leaf_hashes(first, count) == b"".join(leaves)
        assert decode_entries(b"".join(author.ledger.packed(first, count))) == wanted

    def test_long_transactions_are_cut_into_rows_that_read_back(self, author: Author):
        with author.ledger.transaction() as tx:
            for at in range(40):
                tx.append(e.Rejected(at=AT, station="s", code=f"x.{at}"), bytes(5000))
        entries = [entry for _, entry in author.ledger.entries(0, 99)]
        assert len(entries) == 41
        assert list(author.ledger.entries(37, 2)) == [(37, entries[37]), (38, entries[38])]


class TestOrders:
    def test_a_duplicate_is_named_with_the_order_that_has_it(self, author: Author):
        author.order("first", serials("A", 9))
        with refusal("order.serial.duplicate") as caught:
            author.order("second", [*serials("B", 6), "A-00007", "A-00002"])
        assert caught.value.facts == {"device_serials": ["A-00002", "A-00007"], "orders": ["first"]}
        assert author.ledger.records.order("second") is None
        assert author.ledger.records.device("B-00000") is None

    def test_a_duplicate_inside_an_order_is_named(self, author: Author):
        for devices in (["X", "Y", "X"], [*serials("C", 5), "C-00000"]):
            with refusal("order.serial.duplicate") as caught:
                author.order("a", devices)
            assert caught.value.facts["device_serials"] in (["X"], ["C-00000"])

    def test_an_order_exists_once(self, author: Author):
        author.order("a", serials("A", 2))
        with refusal("ledger.exists"):
            author.order("a", serials("B", 2))

    @pytest.mark.parametrize(
        ("event", "names"),
        [
            (e.DevicesOrdered(at=AT, order="none", chunk=0, first=0, count=1), b"Z-1"),
            (e.DevicesOrdered(at=AT, order="a", chunk=0, first=0, count=1), b"Z-1"),
            (e.DevicesOrdered(at=AT, order="a", chunk=2, first=0, count=1), b"Z-1"),
            (e.DevicesOrdered(at=AT, order="a", chunk=-1, first=0, count=1), b"Z-1"),
            (e.DevicesOrdered(at=AT, order="b", chunk=1, first=0, count=2), b"Z-1"),
            (e.DevicesOrdered(at=AT, order="b", chunk=1, first=0, count=1), b"Z-1\nZ-2"),
            (e.DevicesOrdered(at=AT, order="b", chunk=1, first=0, count=2), b"Z-1\n"),
            (e.DevicesOrdered(at=AT, order="b", chunk=1, first=0, count=1), b"Z-\xc3\xa4"),
        ],
    )
    def test_devices_that_do_not_fit_their_order_are_refused(self, author: Author, event: e.Event, names: bytes):
        author.order("a", serials("A", 2))
        with refusal("ledger.chunk"):
            author.say(event, attachment=names)

    def test_orders_and_chunks_read_back(self, author: Author):
        author.order("b", serials("B", 9))
        author.order("a", serials("A", 3), origin="device")
        records = author.ledger.records
        assert [order.order for order in records.orders()] == ["b", "a"]
        assert records.order("b").chunks == 3
        assert records.order("a").key_origin == "device"
        assert [(c.chunk, c.first, c.count) for c in records.chunks("b", "ordered", -1, 9)] == [
            (0, 0, 4), (1, 4, 4), (2, 8, 1),
        ]  # fmt: skip
        assert [c.chunk for c in records.chunks("b", "ordered", 0, 1)] == [1]
        ((_, entry),) = author.ledger.entries(records.chunks("b", "ordered", 1, 9)[0].seq, 1)
        assert e.decode_entry(entry)[1] == b"B-00008"


class TestBulk:
    def test_a_chunk_goes_its_way(self, author: Author):
        devices, records = serials("A", 4), author.ledger.records
        author.order("a", devices)
        intent = author.reserve("a", chunk=0, count=4)
        assert records.device("A-00003").state is DeviceState.RESERVED
        assert records.device("A-00003").issued_seq is None
        first = author.issue_chunk(intent, devices)
        found = records.device("A-00003")
        assert (found.state, found.intent, found.position, found.issued_seq) == (
            DeviceState.POOLED, intent, 3, first + 3,
        )  # fmt: skip
        assert records.intent(intent).state == "issued"
        assert records.intents("reserved") == []

    def test_abandoned_means_open_again(self, author: Author):
        author.order("a", serials("A", 4))
        intent = author.reserve("a", chunk=0, count=4)
        author.abandon(intent)
        assert author.ledger.records.device("A-00000").state is DeviceState.ORDERED
        assert author.ledger.records.intent(intent).state == "abandoned"
        with refusal("ledger.intent"):
            author.abandon(intent)
        with refusal("ledger.intent"):
            author.issue_chunk(intent, serials("A", 4))
        again = author.reserve("a", chunk=0, count=4)
        author.issue_chunk(again, serials("A", 4))

    def test_no_chunk_is_issued_twice(self, author: Author):
        (intent,) = author.make("a", serials("A", 4))
        with refusal("ledger.intent"):
            author.issue_chunk(intent, serials("A", 4))
        with refusal("ledger.chunk"):
            author.reserve("a", chunk=0, count=4)
        with refusal("ledger.intent"):
            author.abandon(intent)

    @pytest.mark.parametrize("count", [0, 3, 5])
    def test_a_reservation_has_the_size_of_its_chunk(self, author: Author, count: int):
        author.order("a", serials("A", 4))
        with pytest.raises(Refused):
            author.reserve("a", chunk=0, count=count)
        with refusal("ledger.records"):
            author.reserve("a", chunk=0, count=4, records=make_records(3))
        with refusal("ledger.chunk"):
            author.reserve("a", chunk=7, count=4)

    def test_entries_count_and_hashes_belong_together(self, author: Author):
        author.order("a", serials("A", 4))
        intent = author.reserve("a", chunk=0, count=4)
        packed, leaves = pack([issued_entry(device, intent) for device in serials("A", 4)])
        for entries, hashes, count in (
            (packed, leaves[:-32], 4),
            (packed, leaves + bytes(32), 4),
            (packed[:-1], leaves, 4),
            (packed + b"\0", leaves, 4),
            (packed, leaves[:-32], 3),
        ):
            with refusal("ledger.records"), author.ledger.transaction() as tx:
                tx.append_issued(intent, count=count, entries=entries, leaf_hashes=hashes)

    def test_a_device_of_an_open_chunk_gets_no_second_identity(self, author: Author):
        author.order("a", serials("A", 4))
        with refusal("ledger.chunk"):
            author.reserve("a", device="A-00001", attempt="attempt-1")

    def test_keys_born_in_devices_are_not_made_in_bulk(self, author: Author):
        author.order("a", serials("A", 4), origin="device")
        with refusal("ledger.chunk"):
            author.reserve("a", chunk=0, count=4)

    def test_a_device_of_a_reserved_chunk_cannot_fail(self, author: Author):
        author.order("a", serials("A", 4))
        author.reserve("a", chunk=0, count=4)
        with refusal("device.state"):
            author.fail("A-00000", "attempt-1")

    def test_a_device_that_is_not_made_cannot_be_scrapped(self, author: Author):
        """Its chunk would make an identity for a destroyed unit."""
        author.order("a", serials("A", 4))
        with refusal("device.unmade"):
            author.scrap("A-00000")
        intent = author.reserve("a", chunk=0, count=4)
        with refusal("device.unmade"):
            author.scrap("A-00000")
        author.issue_chunk(intent, serials("A", 4))
        author.scrap("A-00000")
        author.order("b", serials("B", 1), origin="device")
        author.scrap("B-00000")

    def test_malformed_serial_prefixes_are_refused(self, author: Author):
        author.order("a", serials("A", 4))
        for text in ("", "zz", "01020304050607", "0102030405060G08", "ABCDEF0102030405"):
            event = e.Reserved(at=AT, order="a", count=4, serial_prefix=text, template="t", chunk=0)
            with refusal("ledger.records"):
                author.say(event, attachment=make_records(4))


class TestKeys:
    def test_a_key_twice_in_one_chunk(self, author: Author):
        author.order("a", serials("A", 3))
        records = make_records(2)
        with refusal("key.reused") as caught:
            author.reserve("a", chunk=0, count=3, records=records + records[:72])
        assert caught.value.facts["spki_sha256"] == records[8:40].hex()

    def test_a_key_of_another_chunk_also_of_an_abandoned_one(self, author: Author):
        author.order("a", serials("A", 8))
        records = make_records(4)
        author.abandon(author.reserve("a", chunk=0, count=4, records=records))
        for chunk in (0, 1):
            with refusal("key.reused"):
                author.reserve("a", chunk=chunk, count=4, records=make_records(3) + records[72:144])

    def test_a_key_of_the_same_transaction(self, author: Author):
        author.order("a", serials("A", 8))
        records = make_records(4)
        with refusal("key.reused"), author.ledger.transaction() as tx:
            for chunk, prefix in enumerate(tx.serial_prefixes(2)):
                event = e.Reserved(at=AT, order="a", count=4, serial_prefix=prefix.hex(), template="t", chunk=chunk)
                tx.append(event, records)

    def test_a_key_another_connection_reserved(self, case: Case, author: Author):
        author.order("a", serials("A", 8))
        other = Author(case.open())
        records = make_records(4)
        other.reserve("a", chunk=1, count=4, records=records)
        with refusal("key.reused"):
            author.reserve("a", chunk=0, count=4, records=records)
        other.ledger.close()

    def test_a_key_after_reopening(self, case: Case, author: Author):
        author.order("a", serials("A", 8))
        records = make_records(4)
        author.reserve("a", chunk=1, count=4, records=records)
        again = Author(case.open())
        with refusal("key.reused"):
            again.reserve("a", chunk=0, count=4, records=records)
        again.ledger.close()

    def test_a_key_of_a_rolled_back_transaction_is_free(self, case: Case, author: Author):
        """And what another process reserves at the same number afterwards is seen."""
        author.order("a", serials("A", 16))
        ours, theirs = make_records(4), make_records(4)

        def reserve(tx: Any) -> None:
            for chunk, prefix in enumerate(tx.serial_prefixes(3)):
                event = e.Reserved(at=AT, order="a", count=4, serial_prefix=prefix.hex(), template="t", chunk=chunk)
                tx.append(event, ours if chunk == 0 else make_records(4))

        break_off(author.ledger, reserve)
        other = Author(case.open())
        other.reserve("a", chunk=0, count=4, records=theirs)
        with refusal("key.reused"):
            author.reserve("a", chunk=1, count=4, records=theirs)
        author.reserve("a", chunk=1, count=4, records=ours)
        other.ledger.close()


class TestSerialPrefixes:
    def test_they_grow_and_carry_the_site(self, case: Case, ledger: Any):
        given: list[bytes] = []
        for step in (1, 5, 3):
            with ledger.transaction() as tx:
                given += tx.serial_prefixes(step)
                given += tx.serial_prefixes(1)
        assert given == sorted(set(given))
        assert {prefix[:2] for prefix in given} == {SITE_PREFIX}
        assert {len(prefix) for prefix in given} == {8}
        assert int.from_bytes(given[0][2:], "big") == int(case.clock.now.timestamp() * 1000)

    def test_never_twice_while_the_clock_runs_back_and_the_ledger_is_reopened(self, case: Case, ledger: Any):
        given: list[bytes] = []
        ledgers = [ledger, case.open()]
        for round_ in range(6):
            case.clock.move(days=-400 * round_)
            if round_ == 3:
                ledgers[1].close()
                ledgers[1] = case.open()
            with ledgers[round_ % 2].transaction() as tx:
                given += tx.serial_prefixes(7)
        assert given == sorted(set(given))
        ledgers[1].close()

    def test_a_prefix_stands_for_one_reservation(self, author: Author):
        author.order("a", serials("A", 8))
        prefix = author.prefix()
        author.reserve("a", chunk=0, count=4, prefix=prefix)
        with refusal("ledger.cert_serial"):
            author.reserve("a", chunk=1, count=4, prefix=prefix)


def _reserved(order: str, device: str, attempt: str, prefix: bytes) -> e.Reserved:
    return e.Reserved(
        at=AT, order=order, count=1, serial_prefix=prefix.hex(), template="00" * 32, device=device, attempt=attempt
    )


class TestLine:
    def test_draw_install_verify_erases(self, author: Author):
        intent, _ = author.make("a", serials("A", 8))
        author.draw("A-00002", "attempt-1")
        author.install("A-00002", "attempt-1")
        author.verify("A-00002", "attempt-1", intent, 2)
        found = author.ledger.records.device("A-00002")
        assert (found.state, found.attempt, found.position) == (DeviceState.VERIFIED, "attempt-1", 2)
        with author.ledger.transaction() as tx:
            assert tx.vault.read(intent, 2) is None
            assert tx.vault.read(intent, 1) == (b"capsule-%d" % intent, slot_of(intent, 1))

    def test_devices_with_a_state_of_their_own_are_told_by_place(self, author: Author):
        author.make("a", serials("A", 8))
        author.draw("A-00006", "attempt-1")
        author.scrap("A-00004")
        records = author.ledger.records
        assert list(records.touched("a", 0)) == []
        assert list(records.touched("a", 1)) == [0, 2]
        assert list(records.touched("none", 0)) == []

    def test_nobody_draws_twice(self, author: Author):
        author.make("a", serials("A", 4))
        author.draw("A-00000", "attempt-1")
        for attempt in ("attempt-1", "attempt-2"):
            with refusal("device.state"):
                author.draw("A-00000", attempt)

    def test_an_attempt_is_used_once(self, author: Author):
        author.make("a", serials("A", 4))
        author.order("b", serials("B", 2), origin="device")
        author.draw("A-00000", "attempt-1")
        author.reserve("b", device="B-00000", attempt="attempt-2")
        with refusal("attempt.reused"):
            author.draw("A-00001", "attempt-1")
        with refusal("attempt.reused"):
            author.draw("A-00001", "attempt-2")
        with refusal("attempt.reused"):
            author.reserve("b", device="B-00001", attempt="attempt-1")
        records = author.ledger.records
        assert (records.attempt("attempt-1").kind, records.attempt("attempt-1").device_serial) == ("drawn", "A-00000")
        assert records.attempt("attempt-2").kind == "reserved"
        assert records.attempt("attempt-3") is None

    def test_another_attempt_cannot_go_on(self, author: Author):
        author.make("a", serials("A", 4))
        author.draw("A-00000", "attempt-1")
        with refusal("attempt.other"):
            author.install("A-00000", "attempt-2")
        with refusal("attempt.other"):
            author.fail("A-00000", "attempt-2")

    @pytest.mark.parametrize("step", ["draw", "install", "fail", "supersede", "scrap"])
    def test_an_unknown_device_is_named(self, author: Author, step: str):
        arguments = ["NOBODY"] if step in ("supersede", "scrap") else ["NOBODY", "attempt-1"]
        with refusal("device.unknown"):
            getattr(author, step)(*arguments)

    def test_a_key_born_in_a_device(self, author: Author):
        author.order("b", serials("B", 2), origin="device")
        intent = author.reserve("b", device="B-00001", attempt="attempt-1")
        with refusal("device.state"):
            author.reserve("b", device="B-00001", attempt="attempt-2")
        seq = author.issue(intent, "B-00001")
        found = author.ledger.records.device("B-00001")
        assert (found.state, found.intent, found.position, found.issued_seq, found.attempt) == (
            DeviceState.ISSUED, intent, 0, seq, "attempt-1",
        )  # fmt: skip
        with refusal("ledger.intent"):
            author.issue(intent, "B-00001")
        with refusal("ledger.intent"):
            author.issue(intent, "B-00000")

    def test_steps_of_many_devices_together_are_what_they_are_one_by_one(self, author: Author):
        author.order("b", serials("B", 3), origin="device")
        devices = serials("B", 3)
        prefixes = [author.prefix() for _ in devices]
        steps = [
            (_reserved("b", device, f"attempt-{device}", prefix), make_records(1))
            for device, prefix in zip(devices, prefixes, strict=True)
        ]
        with author.ledger.transaction() as tx:
            first = tx.append_together(steps)
        certificates = [
            (e.Issued(at=AT, device=device, intent=first + place), b"certificate of " + device.encode())
            for place, device in enumerate(devices)
        ]
        with author.ledger.transaction() as tx:
            issued = tx.append_together(certificates)
        author.said += [(first + place, e.encode_entry(*step)) for place, step in enumerate(steps)]
        author.said += [(issued + place, e.encode_entry(*step)) for place, step in enumerate(certificates)]
        for place, device in enumerate(devices):
            found = author.ledger.records.device(device)
            assert (found.state, found.intent, found.issued_seq, found.attempt) == (
                DeviceState.ISSUED, first + place, issued + place, f"attempt-{device}",
            )  # fmt: skip
        assert [entry for _, entry in author.ledger.entries(first, 3)] == [e.encode_entry(*step) for step in steps]

    def test_one_unlawful_step_refuses_all_that_came_together(self, author: Author):
        author.order("b", serials("B", 4), origin="device")
        author.reserve("b", device="B-00003", attempt="attempt-3")
        size = author.ledger.head().size

        def steps(*devices: str) -> list[tuple[e.Event, bytes]]:
            return [(_reserved("b", device, f"other-{device}", author.prefix()), make_records(1)) for device in devices]

        for wrong in (
            steps("B-00000", "B-00003"),
            steps("B-00000", "B-00000"),
            steps("B-00000", "B-99999"),
            [*steps("B-00000"), (e.Issued(at=AT, device="B-00003", intent=1), b"certificate")],
            [*steps("B-00000"), (e.Scrapped(at=AT, device="B-00001", reason="fell", by="tester"), b"")],
        ):
            with author.ledger.transaction() as tx, refusal("ledger.together"), tx.part():
                tx.append_together(wrong)
            with pytest.raises(Refused), author.ledger.transaction() as tx, suppress(Refused):
                tx.append_together(wrong)
        assert author.ledger.head().size == size
        assert author.ledger.records.device("B-00000").state is DeviceState.ORDERED
        author.reserve("b", device="B-00000", attempt="attempt-0")

    def test_a_reservation_of_one_names_its_own_order_and_one_device(self, author: Author):
        author.order("b", serials("B", 2), origin="device")
        author.order("c", serials("C", 2), origin="device")
        with refusal("ledger.chunk"):
            author.reserve("c", device="B-00000")
        with refusal("ledger.chunk"):
            author.reserve("b", device="B-00000", count=2)
        with refusal("ledger.chunk"):
            author.reserve("b", device="B-00000", chunk=0)

    def test_an_intent_the_device_has_left_is_worth_nothing(self, author: Author):
        """It failed while it was reserved, was reworked, and reserved again: the first signature comes too late."""
        author.order("b", serials("B", 1), origin="device")
        first = author.reserve("b", device="B-00000", attempt="attempt-1")
        author.fail("B-00000", "attempt-1")
        author.supersede("B-00000")
        second = author.reserve("b", device="B-00000", attempt="attempt-2")
        with refusal("ledger.intent"):
            author.issue(first, "B-00000")
        with refusal("ledger.intent"):
            author.abandon(first)
        author.issue(second, "B-00000")
        assert author.ledger.records.device("B-00000").intent == second

    def test_rework_gives_a_new_identity(self, author: Author):
        author.make("a", serials("A", 4))
        author.draw("A-00001", "attempt-1")
        author.fail("A-00001", "attempt-1")
        author.supersede("A-00001")
        intent = author.reserve("a", device="A-00001")
        author.issue(intent, "A-00001", vault=True)
        found = author.ledger.records.device("A-00001")
        assert (found.state, found.intent, found.position) == (DeviceState.POOLED, intent, 0)
        author.draw("A-00001", "attempt-2")

    def test_revoked_is_known_by_its_serial(self, author: Author):
        author.make("a", serials("A", 4))
        cert_serial = bytes(range(16))
        event = e.Revoked(at=AT, device="A-00001", cert_serial=cert_serial.hex(), reason="superseded", by="t")
        assert not author.ledger.records.is_revoked(cert_serial)
        author.say(event)
        assert author.ledger.records.is_revoked(cert_serial)
        with refusal("ledger.exists"):
            author.say(event)
        for text in ("xx", "", "0", "00" * 21, cert_serial.hex().upper()):
            with refusal("ledger.records"):
                author.say(e.Revoked(at=AT, device="A-00001", cert_serial=text, reason="superseded", by="t"))

    def test_totals_conserve(self, author: Author):
        author.make("a", serials("A", 9))
        author.order("b", serials("B", 5), origin="device")
        for place, attempt in enumerate(("attempt-1", "attempt-2", "attempt-3")):
            author.draw(f"A-0000{place}", attempt)
        author.install("A-00001", "attempt-2")
        author.fail("A-00002", "attempt-3")
        author.scrap("A-00003")
        author.issue(author.reserve("b", device="B-00000"), "B-00000")
        author.reserve("b", device="B-00001")
        totals = author.ledger.records.totals
        assert totals("a") == OrderTotals(
            9, open=0, stock=5, consigned=0, in_progress=2, verified=0, failed=1, scrapped=1
        )
        assert totals("b") == OrderTotals(
            5, open=4, stock=0, consigned=0, in_progress=1, verified=0, failed=0, scrapped=0
        )
        assert totals("none").ordered == 0


class TestVault:
    def test_what_was_put_is_there_until_erased(self, case: Case, author: Author):
        (intent,) = author.make("a", serials("A", 4))
        with author.ledger.transaction() as tx:
            tx.vault.erase(intent, 0)
            tx.vault.erase(intent, 3)
            tx.vault.erase(intent, 0)
        other = case.open()
        with other.transaction() as tx:
            found = [tx.vault.read(intent, place) for place in range(5)]
            capsule = b"capsule-%d" % intent
            assert found == [None, (capsule, slot_of(intent, 1)), (capsule, slot_of(intent, 2)), None, None]
        other.close()

    def test_what_is_not_there_is_not_erased(self, author: Author):
        (intent,) = author.make("a", serials("A", 4))
        with author.ledger.transaction() as tx:
            for where in ((intent, 4), (intent, -1), (intent + 1, 0)):
                tx.vault.erase(*where)
                assert tx.vault.read(*where) is None
            assert tx.vault.read(intent, 3) is not None

    def test_a_chunk_is_read_whole_with_zeros_where_it_was_erased(self, author: Author):
        from birthmark.ports import SealedChunk

        (intent,) = author.make("a", serials("A", 4))
        with author.ledger.transaction() as tx:
            tx.vault.erase(intent, 2)
            slots = b"".join(bytes(SLOT) if place == 2 else slot_of(intent, place) for place in range(4))
            assert tx.vault.chunk(intent) == SealedChunk(b"capsule-%d" % intent, SLOT, slots)
            assert tx.vault.chunk(intent + 1) is None

    def test_keys_are_never_put_over_keys(self, author: Author):
        from birthmark.ports import SealedChunk

        (intent,) = author.make("a", serials("A", 4))
        with refusal("ledger.exists"), author.ledger.transaction() as tx:
            tx.vault.put(intent, SealedChunk(b"x", SLOT, bytes(SLOT)))

    def test_an_erasure_that_broke_off_did_not_happen(self, author: Author):
        (intent,) = author.make("a", serials("A", 4))
        break_off(author.ledger, lambda tx: tx.vault.erase(intent, 1))
        with author.ledger.transaction() as tx:
            assert tx.vault.read(intent, 1) is not None


class TestNames:
    def test_cas_templates_and_stations_stand_once(self, author: Author):
        ca = e.CaCreated(
            at=AT, ca="issuing", kind="issuing", key_scheme="file", profile="issuing-ca", cert_sha256="00", by="t",
            transcript_sha256="00", issuer="root",
        )  # fmt: skip
        template = e.TemplateAdmitted(at=AT, template="aa", ca="issuing", profile="p", profile_hash="0", linter="x")
        later = e.TemplateAdmitted(at=AT, template="bb", ca="issuing", profile="p", profile_hash="0", linter="x")
        station = e.StationAdded(at=AT, station="line-1", vkey="line-1+00+AA", by="t")
        seq = author.say(ca, attachment=b"certificate")
        for event in (template, later, station):
            author.say(event, attachment=b"body")
        for event in (ca, template, later, station):
            with refusal("ledger.exists"):
                author.say(event)
        records = author.ledger.records
        assert (records.ca("issuing").certificate, records.ca("issuing").seq) == (b"certificate", seq)
        assert [found.ca for found in records.cas()] == ["issuing"]
        assert [found.template for found in records.templates("issuing", "p")] == ["bb", "aa"]
        assert records.template("aa").body == b"body"
        assert records.stations() == {"line-1": "line-1+00+AA"}
        assert records.ca("x") is records.template("x") is records.order("x") is records.intent(9) is None


class TestPublisher:
    def test_heads_on_record_only_grow(self, case: Case, author: Author):
        author.make("a", serials("A", 8))
        ledger = author.ledger
        assert ledger.publication() == Publication(0, b"", b"")

        def head(size: int) -> Publication:
            frontier = Frontier().extend(ledger.leaf_hashes(0, size)).to_bytes()
            return Publication(size, frontier, b"checkpoint %d" % size)

        size = ledger.head().size
        ledger.record_publication(head(5))
        ledger.record_publication(head(5))
        other = case.open()
        assert other.publication() == head(5)
        other.close()
        for wrong in (head(4), Publication(5, bytes(40), b"fork"), Publication(size + 1, b"", b"ahead")):
            with refusal("log.head.not_growing"):
                ledger.record_publication(wrong)
        ledger.record_publication(head(size))
        assert ledger.head() == LogHead(size=size, published=size)

    def test_leaf_hashes_are_those_of_the_entries(self, author: Author):
        author.make("a", serials("A", 8))
        size = author.ledger.head().size
        expected = [hashlib.sha256(b"\0" + entry).digest() for _, entry in author.ledger.entries(0, size)]
        assert author.ledger.leaf_hashes(0, size) == b"".join(expected)


RACE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.ledger import Author, TestClock, keys_of, serials
from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.errors import Refused
import hashlib
who = sys.argv[3]
author = Author(SqliteLedger(Path(sys.argv[1]), clock=TestClock()))
won = []
for chunk in range(40):
    # Both offer the same keys for the same chunk, at the same still-standing clock.
    records = b"".join(hashlib.shake_128(b"%d %d" % (chunk, place)).digest(72) for place in range(4))
    try:
        author.reserve("a", chunk=chunk if who == "up" else 39 - chunk, count=4, records=records)
        won.append(chunk)
    except Refused as refused:
        assert refused.code in ("key.reused", "ledger.chunk"), refused.code
print(*won)
"""


def test_two_processes_never_reserve_one_key_or_one_prefix_twice(tmp_path: Path):
    path = tmp_path / "ledger" / "ledger.db"
    ledger = create_sqlite(path, TestClock())
    Author(ledger).order("a", serials("A", 160))
    command = [sys.executable, "-c", RACE, str(path), str(REPOSITORY / "tests")]
    running = [subprocess.Popen([*command, who], stdout=subprocess.PIPE, text=True) for who in ("up", "down")]
    won = [set(map(int, process.communicate()[0].split())) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    intents = ledger.records.intents("reserved")
    keys = [key for intent in intents for key in keys_of(intent.records)]
    prefixes = [intent.serial_prefix for intent in intents]
    assert not won[0] & won[1]
    assert len(keys) == len(set(keys)) == 4 * len(intents)
    assert prefixes == sorted(set(prefixes))
    assert ledger.origin == ORIGIN
    ledger.close()
