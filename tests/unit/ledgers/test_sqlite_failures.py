"""What SQLite and the disk can do to a ledger: each has a code, and nothing is lost."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from birthmark.adapters.ledgers.sqlite import SqliteLedger, connection
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault, Tampered, Unavailable
from birthmark.model import events as e
from support.ledger import AT, Author, TestClock, create_sqlite, serials


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "ledger" / "ledger.db"
    create_sqlite(found, TestClock()).close()
    return found


def opened(path: Path) -> SqliteLedger:
    return SqliteLedger(path, clock=TestClock())


def fault(family: type[BirthmarkError], code: str) -> pytest.RaisesExc:
    return pytest.raises(family, check=lambda problem: problem.code == code)


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user whom permissions bind, if this is root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def open_to_nobody(path: Path, mode: int) -> Iterator[None]:
    """Give the tree to the user of ``nobody``, the directory of ``path`` with ``mode``."""
    parents = list(path.parents)[:-1]
    before = {parent: parent.stat().st_mode & 0o7777 for parent in parents}
    for parent in parents:
        if not before[parent] & 0o001:
            parent.chmod(before[parent] | 0o111)
    path.parent.chmod(mode)
    try:
        yield
    finally:
        for parent, was in before.items():
            parent.chmod(was)


class TestOpening:
    def test_no_file(self, tmp_path: Path):
        with fault(Misconfigured, "ledger.missing"):
            opened(tmp_path / "none.db")
        with fault(Misconfigured, "ledger.missing"):
            opened(tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("content", "family", "code"),
        [
            (b"", Misconfigured, "ledger.format"),
            (b"this is not a database at all" * 99, Tampered, "ledger.corrupt"),
            (b"SQLite format 3\0" + bytes(4080), Tampered, "ledger.corrupt"),
        ],
    )
    def test_another_file(self, path: Path, content: bytes, family: type[BirthmarkError], code: str):
        path.write_bytes(content)
        with fault(family, code):
            opened(path)

    def test_a_database_of_another_program(self, path: Path):
        path.unlink()
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE meta (name TEXT, value TEXT)")
        other.close()
        with fault(Misconfigured, "ledger.format"):
            opened(path)

    def test_a_ledger_of_another_format(self, path: Path):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("UPDATE meta SET value = 'birthmark-ledger/9' WHERE name = 'format'")
        other.close()
        with fault(Misconfigured, "ledger.format"):
            opened(path)

    def test_a_missing_table(self, path: Path):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("DROP TABLE head")
        other.close()
        ledger = opened(path)
        with fault(Misconfigured, "ledger.format"):
            ledger.head()
        ledger.close()

    def test_pages_overwritten_in_the_middle(self, path: Path):
        ledger = opened(path)
        Author(ledger).make("a", serials("A", 400))
        ledger.close()
        with path.open("r+b") as file:
            for page in range(1, path.stat().st_size // 4096):
                file.seek(page * 4096)
                file.write(b"\xff" * 64)
        ledger = None
        with fault(Tampered, "ledger.corrupt"):
            ledger = opened(path)
            list(ledger.entries(0, 9999))
        if ledger is not None:
            ledger.close()

    def test_a_directory_that_is_read_only(self, path: Path):
        with open_to_nobody(path, 0o555):
            path.chmod(0o444)
            with nobody(), fault(StationFault, "ledger.read_only"):
                opened(path)

    def test_a_directory_that_cannot_be_entered(self, path: Path):
        with open_to_nobody(path, 0o600), nobody(), fault(StationFault, "storage.read_only"):
            opened(path)

    def test_only_the_owner_can_read_it(self, path: Path):
        ledger = opened(path)
        Author(ledger).order("a", serials("A", 4))
        assert {found.stat().st_mode & 0o777 for found in path.parent.glob("ledger.db*")} == {0o600}
        ledger.close()


class TestCreating:
    FIRST = e.WorkspaceCreated(at=AT, workspace="w", origin="o", site_prefix="0102", software="1", by="t")

    def test_a_ledger_is_never_replaced(self, path: Path):
        content = path.read_bytes()
        with fault(Refused, "ledger.file_exists"):
            create_sqlite(path, TestClock())
        assert path.read_bytes() == content
        assert [found.name for found in path.parent.iterdir()] == ["ledger.db"]

    def test_what_a_power_cut_left_is_replaced(self, tmp_path: Path):
        for name in (".ledger.db.new", ".ledger.db.new-wal", ".ledger.db.new-shm"):
            (tmp_path / name).write_bytes(b"torn")
        ledger = SqliteLedger.create(tmp_path / "ledger.db", first=self.FIRST, clock=TestClock())
        replay_ledger(ledger, progress=lambda count: None)
        ledger.close()
        assert [found.name for found in tmp_path.iterdir()] == ["ledger.db"]

    def test_a_directory_that_is_read_only(self, tmp_path: Path):
        path = tmp_path / "ledger" / "ledger.db"
        path.parent.mkdir()
        with open_to_nobody(path, 0o555), nobody(), fault(StationFault, "storage.read_only"):
            SqliteLedger.create(path, first=self.FIRST, clock=TestClock())
        with open_to_nobody(path, 0o555), nobody(), fault(StationFault, "storage.read_only"):
            SqliteLedger.create(path.parent / "deeper" / "ledger.db", first=self.FIRST, clock=TestClock())


def test_a_writer_that_is_busy(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "_BUSY_TIMEOUT_S", 0.01)
    ledger, other = opened(path), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with fault(Unavailable, "ledger.busy"):
        Author(ledger).order("a", serials("A", 2))
    other.execute("ROLLBACK")
    Author(ledger).order("a", serials("A", 2))
    other.close()
    ledger.close()


@contextmanager
def page_limit(ledger: SqliteLedger) -> Iterator[None]:
    ((pages,),) = ledger.rows("PRAGMA page_count")
    ledger._database.execute(f"PRAGMA max_page_count = {pages + 12}")
    yield
    ledger._database.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def file_limit(ledger: SqliteLedger) -> Iterator[None]:
    """The kernel refuses to let files grow: what a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    grown = ledger.path.with_name("ledger.db-wal").stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (grown + 100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(("limit", "code"), [(page_limit, "ledger.full"), (file_limit, "ledger.io")])
def test_a_disk_that_fills_up_keeps_every_event_it_acknowledged(
    path: Path, limit: Callable[[SqliteLedger], contextmanager], code: str
):
    author = Author(opened(path))
    author.order("a", serials("A", 4))
    said = 0

    def fill() -> None:
        nonlocal said
        for said in range(10_000):
            author.say(e.Rejected(at=AT, station="s", code=f"x.{said}"), attachment=bytes(20_000))

    with limit(author.ledger), fault(StationFault, code):
        fill()
    assert said >= 1
    if code == "ledger.io":
        with fault(StationFault, "ledger.io"):
            author.order("b", serials("B", 2))
        author.ledger.close()
        author.ledger = opened(path)
    entries = dict(author.ledger.entries(0, 99_999))
    assert len(entries) == author.ledger.head().size
    assert all(entries[seq] == entry for seq, entry in author.said)
    author.order("b", serials("B", 2))
    replay_ledger(author.ledger, progress=lambda count: None)
    author.ledger.close()


class TestReplay:
    TABLES = (
        ("device", "UPDATE device SET state = 'verified' WHERE device_serial = 'A-00001'"),
        ("chunk", "DELETE FROM chunk WHERE chunk = 1"),
        ("certificate", "UPDATE certificate SET records = zeroblob(288) WHERE chunk = 0"),
        ("order", "UPDATE \"order\" SET ca = 'other'"),
        ("attempt", "INSERT INTO attempt VALUES ('attempt-9', 'A-00001', 'drawn', 5)"),
        ("revoked", "INSERT INTO revoked VALUES (x'00', 'A-00001', 'unspecified', 5)"),
        ("meta", "UPDATE meta SET value = 'other' WHERE name = 'origin'"),
        ("station", "INSERT INTO station VALUES ('line-9', 'vkey', 4)"),
        ("ca", "INSERT INTO ca VALUES ('x', 'root', NULL, x'00', 4, NULL)"),
        ("template", "INSERT INTO template VALUES ('x', 'ca', 'p', x'00', 4)"),
    )

    @pytest.mark.parametrize(("table", "forgery"), TABLES)
    def test_a_table_that_is_not_what_the_log_says(self, path: Path, table: str, forgery: str):
        ledger = opened(path)
        Author(ledger).make("a", serials("A", 8))
        ledger.close()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute(forgery)
        other.close()
        ledger = opened(path)
        with fault(Tampered, "ledger.replay.differs") as caught:
            replay_ledger(ledger, progress=lambda count: None)
        assert caught.value.facts["table"] == table
        ledger.close()

    def test_an_entry_that_cannot_follow(self, path: Path):
        ledger = opened(path)
        author = Author(ledger)
        (intent,) = author.make("a", serials("A", 4))
        ledger.close()
        entry = e.encode_entry(e.Abandoned(at=AT, intent=intent, reason="x"))
        other = sqlite3.connect(path, isolation_level=None)
        (size,) = other.execute("SELECT size FROM head").fetchone()
        other.execute("INSERT INTO entry VALUES (?, 1, ?, zeroblob(32))", (size, len(entry).to_bytes(2, "big") + entry))
        other.execute("UPDATE head SET size = size + 1")
        other.close()
        ledger = opened(path)
        with fault(Tampered, "ledger.replay.unlawful") as caught:
            replay_ledger(ledger, progress=lambda count: None)
        assert caught.value.facts["entry"] == size
        ledger.close()

    def test_writing_goes_on_while_it_runs(self, path: Path):
        ledger, other = opened(path), Author(opened(path))
        other.make("a", serials("A", 40))
        pending = iter(serials("B", 40))

        def write(count: int) -> None:
            if (name := next(pending, None)) is not None:
                other.order(name.lower(), [name])

        tables = replay_ledger(ledger, progress=write)
        assert tables["device"] == 40
        assert replay_ledger(ledger, progress=lambda count: None)["device"] > 60
        other.ledger.close()
        ledger.close()
