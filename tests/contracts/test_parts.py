"""Parts of a transaction, and group commit: the laws of ``Transaction.part`` and of ``GroupedLedger``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.grouped import GroupedLedger
from birthmark.adapters.ledgers.sql.store import SqlLedger
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import Refused
from birthmark.model import events as e
from support.ledger import AT, Author, TestClock, create_sqlite, make_records, serials
from support.postgres import create_postgres


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SqlLedger]:
    if request.param == "sqlite":
        opened: SqlLedger = create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())
    else:
        conninfo = request.getfixturevalue("postgres").conninfo()
        opened = create_postgres(conninfo, tmp_path / "ledger", TestClock())
    yield opened
    replay_ledger(opened, progress=lambda count: None)
    opened.close()


def rejected(code: str) -> e.Rejected:
    return e.Rejected(at=AT, station="s", code=code)


def drawn(device: str, attempt: str) -> e.Drawn:
    return e.Drawn(at=AT, device=device, station="s", attempt=attempt)


def refused(code: str) -> Any:
    return pytest.raises(Refused, check=lambda refusal: refusal.code == code)


def broken_off() -> Any:
    return pytest.raises(KeyError)


def codes(ledger: Any) -> list[str]:
    events = [e.decode_entry(entry)[0] for _, entry in ledger.entries(0, 999)]
    return [event.code for event in events if isinstance(event, e.Rejected)]


class TestPart:
    def test_a_refused_part_takes_nothing_else_with_it(self, ledger: SqlLedger):
        Author(ledger).make("a", serials("A", 4))
        before = ledger.head().size
        with ledger.transaction() as tx:
            tx.append(rejected("x.before"))
            with refused("device.unknown"), tx.part():
                tx.append(rejected("x.inside"))
                tx.append(drawn("A-99999", "attempt-1"))
            tx.append(rejected("x.after"))
        assert codes(ledger) == ["x.before", "x.after"]
        assert ledger.head().size == before + 2

    def test_numbers_and_serial_prefixes_go_on_as_if_it_had_not_been(self, ledger: SqlLedger):
        with ledger.transaction() as tx:
            first = tx.append(rejected("x.1"))
            with broken_off(), tx.part():
                tx.append(rejected("x.2"))
                tx.serial_prefixes(5)
                raise KeyError
            assert tx.append(rejected("x.3")) == first + 1

    def test_the_key_of_an_undone_part_is_free_and_that_of_a_kept_one_is_not(self, ledger: SqlLedger):
        author = Author(ledger)
        author.order("a", serials("A", 2), origin="device")
        kept, undone = make_records(1), make_records(1)

        def reserve(tx: Any, device: str, records: bytes, attempt: str) -> None:
            (prefix,) = tx.serial_prefixes(1)
            tx.append(
                e.Reserved(
                    at=AT, order="a", count=1, serial_prefix=prefix.hex(), template="t", device=device, attempt=attempt
                ),
                records,
            )

        with ledger.transaction() as tx:
            with broken_off(), tx.part():
                reserve(tx, "A-00000", undone, "attempt-1")
                raise KeyError
            with tx.part():
                reserve(tx, "A-00000", kept, "attempt-1")
            with refused("key.reused"), tx.part():
                reserve(tx, "A-00001", kept, "attempt-2")
            with tx.part():
                reserve(tx, "A-00001", undone, "attempt-2")


class TestGroup:
    def test_one_alone_commits_at_once(self, ledger: SqlLedger):
        grouped = GroupedLedger(ledger)
        with grouped.transaction() as tx:
            tx.append(rejected("x.1"))
        assert codes(ledger) == ["x.1"]
        assert grouped.commits == 1

    def test_those_who_wait_share_one_commit(self, ledger: SqlLedger):
        grouped = GroupedLedger(ledger)
        inside, go = threading.Event(), threading.Event()

        def hold() -> None:
            with grouped.transaction() as tx:
                tx.append(rejected("x.first"))
                inside.set()
                go.wait()

        def follow(number: int) -> None:
            with grouped.transaction() as tx:
                tx.append(rejected(f"x.{number}"))

        with ThreadPoolExecutor(9) as pool:
            pool.submit(hold)
            inside.wait()
            others = [pool.submit(follow, number) for number in range(8)]
            while len(grouped._waiting) < 9:
                pass
            go.set()
            for other in others:
                other.result()
        assert sorted(codes(ledger)) == sorted(["x.first", *(f"x.{number}" for number in range(8))])
        assert grouped.commits == 1

    def test_who_is_refused_is_told_alone_and_the_others_are_kept(self, ledger: SqlLedger):
        Author(ledger).make("a", serials("A", 40))
        grouped = GroupedLedger(ledger)

        def draw(number: int) -> str:
            try:
                with grouped.transaction() as tx:
                    tx.append(drawn(f"A-{number % 40:05d}", f"attempt-{number}"))
            except Refused as refusal:
                return refusal.code
            return "drawn"

        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(draw, range(80)))
        assert told.count("drawn") == 40
        assert told.count("device.state") == 40
        assert len([1 for _, entry in ledger.entries(0, 999) if isinstance(e.decode_entry(entry)[0], e.Drawn)]) == 40

    def test_a_commit_that_fails_is_told_to_all(self, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch):
        grouped = GroupedLedger(ledger)

        def fail(self: Any) -> None:
            raise OSError("the disk is gone")

        with monkeypatch.context() as patched:
            patched.setattr("birthmark.adapters.ledgers.sql.transaction.SqlTransaction.finish", fail)
            with pytest.raises(OSError, match="the disk is gone"), grouped.transaction() as tx:
                tx.append(rejected("x.1"))
        with grouped.transaction() as tx:
            tx.append(rejected("x.2"))
        assert codes(ledger) == ["x.2"]
