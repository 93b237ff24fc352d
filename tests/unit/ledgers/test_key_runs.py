"""Key runs: a reused key is found whichever file it lies in, and the files are never more than a cache."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from birthmark.adapters.ledgers.sql import keyruns
from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import Refused
from support.ledger import Author, TestClock, create_sqlite, make_records, serials

CHUNKS = 24


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyruns, "_FLUSH_AT", 8)


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    ledger = create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())
    author = Author(ledger)
    author.order("a", serials("A", 4 * CHUNKS))
    yield author
    replay_ledger(author.ledger, progress=lambda count: None)
    author.ledger.close()


def runs_of(author: Author) -> list[Path]:
    return sorted((author.ledger.path.parent / "runs").glob("*.run"))


def reuse(author: Author, known: list[bytes], chunk: int) -> None:
    """Try every key that is on record once more."""
    for records in known:
        for at in range(0, len(records), 72):
            with pytest.raises(Refused, match=r"key\.reused"):
                author.reserve("a", chunk=chunk, count=4, records=make_records(3) + records[at : at + 72])


def reserve(author: Author, chunks: range) -> list[bytes]:
    known = [make_records(4) for _ in chunks]
    for chunk, records in zip(chunks, known, strict=True):
        author.reserve("a", chunk=chunk, count=4, records=records)
    return known


def test_a_key_is_found_across_flushed_and_merged_runs(author: Author):
    known = reserve(author, range(CHUNKS - 1))
    rows = list(author.ledger.rows("SELECT file, count FROM key_run"))
    assert {name for name, _ in rows} == {path.name for path in runs_of(author)}
    assert sum(count for _, count in rows) >= 4 * (CHUNKS - 3)
    assert len(rows) < CHUNKS // 4, "small runs are merged"
    reuse(author, known, CHUNKS - 1)


def test_a_run_is_sorted_counted_and_named_by_its_content(author: Author):
    reserve(author, range(8))
    for name, count, digest in author.ledger.rows("SELECT file, count, sha256 FROM key_run"):
        data = (author.ledger.path.parent / "runs" / name).read_bytes()
        assert hashlib.sha256(data).digest() == digest
        assert digest.hex().startswith(name.removesuffix(".run"))
        assert data[:16] == b"birthmark-keys/1"
        assert int.from_bytes(data[16:24], "big") == count
        hashes = [data[at : at + 32] for at in range(24 + 4 * 65537, len(data), 32)]
        assert hashes == sorted(set(hashes))
        assert len(hashes) == count


def test_a_reopened_ledger_reads_its_runs(author: Author):
    known = reserve(author, range(10))
    again = Author(SqliteLedger(author.ledger.path, clock=TestClock()))
    reuse(again, known, 11)
    again.ledger.close()


def test_another_process_follows_merges_while_it_has_old_runs_open(author: Author):
    other = Author(SqliteLedger(author.ledger.path, clock=TestClock()))
    known: list[bytes] = []
    for first in range(0, CHUNKS - 2, 2):
        known += reserve(author, range(first, first + 1))
        known += reserve(other, range(first + 1, first + 2))
    reuse(author, known[::5], CHUNKS - 1)
    reuse(other, known[::5], CHUNKS - 1)
    other.ledger.close()


@pytest.mark.parametrize("damage", [b"", b"x", b"birthmark-keys/1" + bytes(8), None])
def test_a_missing_or_damaged_run_is_made_anew(author: Author, damage: bytes | None):
    known = reserve(author, range(12))
    for path in runs_of(author):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
    again = Author(SqliteLedger(author.ledger.path, clock=TestClock()))
    reuse(again, known, 13)
    known += reserve(again, range(13, 17))
    reuse(again, known, 18)
    reuse(author, known, 18)
    again.ledger.close()


def test_all_runs_lost_while_another_process_has_them_open(author: Author):
    """New runs never stand in old files: the other process may have those mapped."""
    other = Author(SqliteLedger(author.ledger.path, clock=TestClock()))
    known = reserve(other, range(9))
    reuse(author, known[:1], 22)
    for path in runs_of(author):
        path.unlink()
    again = Author(SqliteLedger(author.ledger.path, clock=TestClock()))
    known += reserve(again, range(9, 14))
    reuse(other, known, 22)
    again.ledger.close()
    other.ledger.close()


def test_a_run_that_cannot_be_written_fails_no_event(author: Author, monkeypatch: pytest.MonkeyPatch):
    fsync = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    known = reserve(author, range(7))
    assert runs_of(author) == []
    reuse(author, known, 9)
    monkeypatch.setattr(os, "fsync", fsync)
    known += reserve(author, range(7, 14))
    assert runs_of(author)
    reuse(author, known, 15)


def test_a_run_left_by_a_crash_is_ignored(author: Author):
    runs = author.ledger.path.parent / "runs"
    runs.mkdir()
    (runs / ".new").write_bytes(b"torn")
    (runs / "0123456789abcdef.run").write_bytes(b"torn")
    known = reserve(author, range(6))
    reuse(author, known, 7)
    assert not (runs / ".new").exists()
