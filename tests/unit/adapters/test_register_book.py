"""The book of a cloud: durable, of one cloud, named when it is broken, and made again from the log when it is lost."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from birthmark.adapters.registerbook import SqliteRegisterBook, look_up
from birthmark.adapters.registerscratch import SqliteScratch
from birthmark.errors import BirthmarkError, Misconfigured, Tampered
from birthmark.ports import CloudRecord, Settlement
from birthmark.wire.registry import LogCursor

CURSOR = LogCursor(9, "ab" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "register" / "cloud.db"


def open_book(path: Path, cloud: str = "memory:cloud", scope: str = "all") -> SqliteRegisterBook:
    return SqliteRegisterBook(path, cloud=cloud, scope=scope)


def test_it_is_private_and_every_commit_reaches_the_disk(path: Path) -> None:
    book = open_book(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert book._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert book._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    book.close()


def test_devices_and_cursor_are_folded_together(path: Path) -> None:
    book = open_book(path)
    assert book.cursor() is None
    assert book.fold({"a": 3, "b": 4}, CURSOR) == 2
    assert book.fold({"a": 3, "b": 2}, CURSOR) == 0, "nothing newer"
    assert book.fold({"a": 7}, CURSOR) == 1
    with pytest.raises(sqlite3.Error):
        book.fold({"c": object()}, LogCursor(11, "cd" * 32))  # type: ignore[dict-item]
    assert book.cursor() == CURSOR
    assert book.counts() == {"due": 2, "asked": 0, "settled": 0, "parked": 0}
    book.close()


def test_the_oldest_entries_come_first_and_nobody_is_taken_twice(path: Path) -> None:
    book = open_book(path)
    book.fold({f"unit-{number}": 100 - number for number in range(10)}, CURSOR)
    first, second = book.turn((), 4), book.turn((), 100)
    assert [one.revision for one in (*first, *second)] == list(range(91, 101))
    assert book.turn((), 100) == []
    assert book.recover() == 10
    assert {one.tries for one in book.turn((), 100)} == {2}
    book.close()


def test_a_record_is_of_one_device(path: Path) -> None:
    book = open_book(path)
    book.fold({"a": 1, "A": 2}, CURSOR)
    first, second = book.turn((), 2)
    book.turn([Settlement(first, "done", "enabled", key="a", certificate_seq=5)], 0)
    assert book.holders(["a", "b"]) == {"a": "a"}
    with pytest.raises(sqlite3.IntegrityError):
        book.turn([Settlement(second, "done", "enabled", key="a")], 0)
    assert book.known(["a", "A", "?"])["a"].told_seq == 5
    book.turn([Settlement(second, "refused", "enabled", code="x.y", detail="d", hint="h")], 0)
    assert [(one.device_serial, one.code, one.hint) for one in book.parked("", 9)] == [("A", "x.y", "h")]
    assert {(one.device_serial, one.outcome) for one in book.unlogged(9)} == {("a", "done"), ("A", "refused")}
    book.mark_logged(book.unlogged(1))
    assert [one.device_serial for one in book.unlogged(9)] == ["a"]
    assert (book.reopen(["a", "A", "?"]), book.counts()["due"]) == (2, 2)
    book.close()


def test_another_cloud_another_format_and_a_broken_file_are_named(path: Path) -> None:
    open_book(path).close()
    with pytest.raises(Misconfigured, match=r"register\.book\.cloud"):
        open_book(path, cloud="memory:other")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = 'birthmark-register/9' WHERE name = 'format'")
    database.close()
    with pytest.raises(Misconfigured, match=r"register\.book\.format"):
        open_book(path)
    path.write_bytes(b"not a database, but long enough for a header" * 100)
    with pytest.raises(Tampered, match=r"register\.book\.corrupt"):
        open_book(path)


def test_another_scope_forgets_the_cursor_and_keeps_the_devices(path: Path) -> None:
    book = open_book(path)
    book.fold({"a": 1}, CURSOR)
    book.close()
    book = open_book(path, scope="less")
    assert (book.cursor(), book.counts()["due"]) == (None, 1)
    book.close()


def test_a_second_writer_waits_and_then_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birthmark.adapters.registerbook._BUSY_TIMEOUT_S", 0.05)
    one, two = open_book(path), open_book(path)
    one._database.execute("BEGIN IMMEDIATE")
    with pytest.raises(BirthmarkError, match=r"register\.book\.busy"):
        two.recover()
    one._database.execute("ROLLBACK")
    assert two.recover() == 0
    one.close()
    two.close()


def test_a_device_is_looked_up_without_changing_the_book(path: Path) -> None:
    assert look_up(path, "a") is None
    book = open_book(path)
    book.fold({"a": 1}, CURSOR)
    assert look_up(path, "a") == ("memory:cloud", "due", "")
    book.turn([Settlement(book.turn((), 1)[0], "same", "blocked")], 0)
    assert look_up(path, "a") == ("memory:cloud", "settled", "blocked, same")
    assert look_up(path, "b") is None
    book.close()


def test_room_for_comparing_is_gone_with_the_process(tmp_path: Path) -> None:
    scratch = SqliteScratch(tmp_path)
    assert list(tmp_path.iterdir()) == []
    scratch.touch(["b", "a", "b"])
    assert scratch.devices("", 9) == ["a", "b"]
    assert scratch.devices("a", 9) == ["b"]
    record = CloudRecord("a", "A", "enabled", ("ab" * 32, "cd" * 32))
    scratch.expect([("A", record), ("other", record)])
    assert scratch.match([CloudRecord("x", "x", "enabled", ()), record]) == [None, ("A", record)]
    assert scratch.unseen("", 9) == []
    scratch.close()
