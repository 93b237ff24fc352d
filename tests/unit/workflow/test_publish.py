"""Publication: what is shown was signed, what was signed is on record, and none of it ever goes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.adapters.logstore import FileLogStore
from birthmark.errors import Tampered
from birthmark.model import events as e
from birthmark.tlog.checkpoint import Checkpoint, sign
from birthmark.tlog.merkle import Frontier
from birthmark.workflow.log import publish as publishing
from birthmark.workflow.log.publish import LogPublication
from support.golog import build_reader, read_log
from support.ledger import AT, ORIGIN, Author, TestClock, create_sqlite, serials

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_reader(tmp_path_factory.mktemp("go"))


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    author = Author(create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock()))
    yield author
    author.ledger.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def publication(author: Author, log: Path, store: Any = None) -> LogPublication:
    return LogPublication(author.ledger, store or FileLogStore(log), origin=ORIGIN, key=KEY)


def publish(author: Author, log: Path) -> int:
    return publication(author, log).publish()


def grow(author: Author, count: int) -> None:
    """Append ``count`` entries of many sizes."""
    with author.ledger.transaction() as tx:
        for number in range(count):
            tx.append(e.Rejected(at=AT, station="line-1", code=f"x.{number}"), bytes(number % 300))


class Stopped(Exception):
    """The process ends here."""


class BreakingStore(FileLogStore):
    """Ends the process at one write, after half of it, or before the checkpoint."""

    def __init__(self, directory: Path, at: int) -> None:
        super().__init__(directory)
        self._left = at
        self._root = directory

    def write(self, path: str, data: bytes) -> None:
        if self._left == 0:
            torn = self._root / path
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(data[: len(data) // 2])
            raise Stopped
        self._left -= 1
        super().write(path, data)

    def publish(self, checkpoint: bytes) -> None:
        if self._left >= 0:
            raise Stopped
        super().publish(checkpoint)


def test_another_implementation_reads_every_published_log(author: Author, log: Path, reader: Path):
    old = None
    for count in (0, 1, 254, 3, 255, 256, 700, 0):
        grow(author, count)
        author.order(f"o{author.ledger.head().size}", serials(f"D{author.ledger.head().size}", 3))
        size = publish(author, log)
        assert size == author.ledger.head().size
        read_log(reader, log, publication(author, log).vkey, old=old)
        old = size


def test_publishing_again_changes_nothing(author: Author, log: Path):
    grow(author, 300)
    publish(author, log)
    before = {path: path.stat().st_mtime_ns for path in log.rglob("*")}
    assert publish(author, log) == 301
    assert {path: path.stat().st_mtime_ns for path in log.rglob("*")} == before


def test_a_long_way_ahead_is_published_in_steps(
    author: Author, log: Path, reader: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(publishing, "_STEP", 300)
    grow(author, 1000)
    assert publish(author, log) == 1001
    read_log(reader, log, publication(author, log).vkey)


@pytest.mark.parametrize("size", [5, 400])
def test_ended_at_any_write_and_published_again(author: Author, log: Path, reader: Path, size: int):
    grow(author, size)
    publish(author, log)
    for at in range(9):
        grow(author, 300)
        shown = publication(author, log).shown()
        with pytest.raises(Stopped):
            publication(author, log, BreakingStore(log, at)).publish()
        assert author.ledger.publication().size == author.ledger.head().size
        assert publication(author, log).shown() == shown, "nothing is shown before everything is there"
        old = publication(author, log).shown()
        assert publish(author, log) == author.ledger.head().size
        read_log(reader, log, publication(author, log).vkey, old=old.size if old else None)


def test_a_signed_head_that_was_not_shown_is_the_one_that_is_shown_next(author: Author, log: Path):
    grow(author, 10)
    with pytest.raises(Stopped):
        publication(author, log, BreakingStore(log, 1)).publish()
    signed = author.ledger.publication().checkpoint
    publish(author, log)
    assert (log / "checkpoint").read_bytes() == signed


def test_a_restored_old_ledger_is_found_before_it_signs_anything(author: Author, log: Path, tmp_path: Path):
    grow(author, 10)
    publish(author, log)
    path: Path = author.ledger.path
    author.ledger.close()
    backup = tmp_path / "backup.db"
    shutil.copy(path, backup)
    author.ledger = SqliteLedger(path, clock=TestClock())
    grow(author, 20)
    publish(author, log)
    author.ledger.close()
    shutil.copy(backup, path)
    author.ledger = SqliteLedger(path, clock=TestClock())
    before = (log / "checkpoint").read_bytes(), author.ledger.publication()
    for _ in range(3):
        with pytest.raises(Tampered, match=r"ledger\.rolled_back"):
            publish(author, log)
        # Also when it has grown past the files with other entries.
        grow(author, 20)
    assert ((log / "checkpoint").read_bytes(), author.ledger.publication()) == before


def _other_head(author: Author, log: Path, size: int) -> None:
    """Show a head over other entries, signed with the right key."""
    root = Frontier().extend([bytes([number % 256] * 32) for number in range(size)]).root()
    (log / "checkpoint").write_bytes(sign(Checkpoint(ORIGIN, size, root), KEY).encode())


@pytest.mark.parametrize("size", [11, 7])
def test_another_head_of_the_same_log_stops_everything(author: Author, log: Path, size: int):
    """Of the same size, or of a smaller one that would be extended."""
    grow(author, 6)
    publish(author, log)
    grow(author, 4)
    publish(author, log)
    _other_head(author, log, size)
    before = author.ledger.publication()
    with pytest.raises(Tampered, match=r"log\.forked"):
        publish(author, log)
    assert author.ledger.publication() == before


def test_a_checkpoint_of_another_key_stops_everything(author: Author, log: Path):
    grow(author, 6)
    publish(author, log)
    other = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
    (log / "checkpoint").write_bytes(sign(Checkpoint(ORIGIN, 7, bytes(32)), other).encode())
    with pytest.raises(Tampered):
        publish(author, log)


@pytest.mark.parametrize("size", [40, 300])
def test_a_published_tile_that_changed_is_found_before_it_is_extended(author: Author, log: Path, size: int):
    grow(author, size)
    publish(author, log)
    tiles = [path for path in (log / "tile" / "0").rglob("*") if path.is_file()]
    data = bytearray(tiles[-1].read_bytes())
    data[5] ^= 1
    tiles[-1].write_bytes(bytes(data))
    grow(author, 5)
    before = author.ledger.publication()
    with pytest.raises(Tampered):
        publish(author, log)
    assert author.ledger.publication() == before


def test_lost_files_are_written_again_from_the_ledger(author: Author, log: Path, reader: Path):
    grow(author, 600)
    publish(author, log)
    checkpoint = (log / "checkpoint").read_bytes()
    shutil.rmtree(log)
    assert publish(author, log) == 601
    assert (log / "checkpoint").read_bytes() == checkpoint
    read_log(reader, log, publication(author, log).vkey)


def test_partial_tiles_go_when_the_full_one_is_shown(author: Author, log: Path, reader: Path):
    sizes = []
    for count in (100, 100, 100, 300):
        grow(author, count)
        sizes.append(publish(author, log))
    partial = sorted(str(path.relative_to(log)) for path in log.rglob("*.p"))
    assert partial == ["tile/0/002.p", "tile/1/000.p", "tile/entries/002.p"]
    for old in sizes:
        read_log(reader, log, publication(author, log).vkey, old=old)
    grow(author, 10)
    publish(author, log)
    read_log(reader, log, publication(author, log).vkey, old=sizes[-1])
