"""The SQLite ledger: one writer at a time, every commit durable, the log and its tables in one transaction."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Lock, RLock

from birthmark import __version__
from birthmark.adapters.durable import naming_os_errors, sync_directory
from birthmark.adapters.ledgers.sqlite.connection import connect, create, create_schema, naming_failures, read_meta
from birthmark.adapters.ledgers.sqlite.fold import Fold
from birthmark.adapters.ledgers.sqlite.keyruns import KeyIndex
from birthmark.adapters.ledgers.sqlite.records import SqliteRecords
from birthmark.adapters.ledgers.sqlite.transaction import SqliteTransaction
from birthmark.errors import Refused, StationFault
from birthmark.model import events as e
from birthmark.model.records import LogHead, Publication

__all__ = ["SqliteLedger"]


def _offset(packed: bytes, at: int, entries: int) -> int:
    """Return where ``entries`` packed entries from ``at`` end, or where the octets do."""
    end = len(packed)
    while entries > 0 and at < end:
        at += 2 + (packed[at] << 8 | packed[at + 1])
        entries -= 1
    return at


def _write_first(path: Path, first: e.WorkspaceCreated) -> None:
    """Make the ledger file with its schema and its first entry."""
    database = create(path)
    try:
        database.execute("BEGIN IMMEDIATE")
        create_schema(database)
        entry = e.encode_entry(first)
        row = (len(entry).to_bytes(2, "big") + entry, hashlib.sha256(b"\0" + entry).digest())
        Fold(database, lambda hashes: None).apply(first, b"", 0)
        database.execute("INSERT INTO entry VALUES (0, 1, ?, ?)", row)
        database.execute("INSERT INTO head VALUES (1, 1, 0, 0, x'', x'')")
        database.execute("COMMIT")
    finally:
        database.close()


class SqliteLedger:
    """Implements ``ports.Ledger`` and, through ``records``, ``ports.Records``.

    Reading has a connection of its own: it sees what is committed, and never waits for a writer or its fsync. A
    transaction may be ended by another thread than began it.

    Power cut: a commit that returned is on disk (WAL, FULL); one that did not is gone as a whole. After an I/O error
    the object refuses further work, since the kernel may have dropped the dirty pages.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime]) -> None:
        self._database = connect(path)
        try:
            meta = read_meta(self._database, path)
        except BaseException:
            self._database.close()
            raise
        self._reader = self._connect_reader(path)
        self._writing, self._reading = Lock(), RLock()
        self._broken = False
        self.clock = clock
        self.path = path
        self.keys = KeyIndex(self._database, path.parent / "runs")
        self.fold = Fold(self._database, self.keys.find)
        self.records = SqliteRecords(self._reader, self._reading)
        self.site_prefix = bytes.fromhex(meta["site_prefix"])
        self.origin = meta["origin"]
        self.software = meta["software"]

    def _connect_reader(self, path: Path) -> sqlite3.Connection:
        return connect(path)

    @classmethod
    def create(cls, path: Path, *, first: e.WorkspaceCreated, clock: Callable[[], datetime]) -> SqliteLedger:
        """Make a new ledger whose first entry is ``first``; an existing file is never replaced.

        Power cut: there is a ledger with its first entry, or none; what is left over is replaced by the next try.
        """
        with naming_os_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.new")
            for suffix in ("", "-wal", "-shm"):
                unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
        with naming_failures():
            _write_first(unfinished, first)
        with naming_os_errors(path):
            try:
                os.link(unfinished, path)
            except FileExistsError:
                raise Refused(
                    "ledger.file_exists",
                    f"{path} exists",
                    hint="Choose an empty directory for a new workspace.",
                    path=str(path),
                ) from None
            finally:
                unfinished.unlink()
        for directory in (path.parent, path.parent.parent):
            sync_directory(directory)
        return cls(path, clock=clock)

    def note_software(self, by: str) -> None:
        """Record that another version of the program writes from here on."""
        if self.software != __version__:
            with self.transaction() as tx:
                tx.append(e.SoftwareChanged(at=e.utc_text(self.clock()), software=__version__, by=by))
            self.software = __version__

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        with self._writing, naming_failures():
            if self._broken:
                raise StationFault(
                    "ledger.io",
                    "the ledger failed before and may have lost its unwritten pages",
                    hint="Check the disk; then start again, recovery runs by itself.",
                )
            self._database.execute("BEGIN IMMEDIATE")
            tx = None
            try:
                tx = SqliteTransaction(self, self._database)
                yield tx
                tx.finish()
                self._database.execute("COMMIT")
            except BaseException as problem:
                if tx is not None:
                    self.keys.forget(tx.begun_at)
                self._roll_back(problem)
                raise
            for intent, hashes in tx.new_keys:
                self.keys.add(hashes, intent)
            if self.keys.due():
                self._flush_keys()

    def _roll_back(self, problem: BaseException) -> None:
        self._broken = self._broken or (
            isinstance(problem, sqlite3.OperationalError) and "disk i/o" in str(problem).lower()
        )
        if self._database.in_transaction:
            try:
                self._database.execute("ROLLBACK")
            except sqlite3.Error:
                self._broken = True

    def _flush_keys(self) -> None:
        """Write a key run. It is a cache: if that fails the events before it stand, and it is tried again later."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            obsolete = self.keys.flush()
            self._database.execute("COMMIT")
            for path in obsolete:
                path.unlink(missing_ok=True)
        except (sqlite3.Error, OSError) as problem:
            self.keys.postpone()
            self._roll_back(problem)
        except BaseException as problem:
            self.keys.forget(0)
            self._roll_back(problem)
            raise

    def head(self) -> LogHead:
        with self._reading, naming_failures():
            size, published = self._reader.execute("SELECT size, published FROM head").fetchone()
        return LogHead(size=size, published=published)

    def entries(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        """Yield entries ``first .. first+count-1`` as far as they exist."""
        last = first + count
        for start, _, packed in self._rows(first, last, "body"):
            seq, at = start, 0
            while at < len(packed):
                end = at + 2 + int.from_bytes(packed[at : at + 2], "big")
                if first <= seq < last:
                    yield seq, packed[at + 2 : end]
                seq, at = seq + 1, end

    def packed(self, first: int, count: int) -> Iterator[bytes]:
        """Yield the packed form of ``count`` entries from ``first``, one piece a row."""
        last = first + count
        for start, here, body in self._rows(first, last, "body"):
            if first <= start and start + here <= last:
                yield body
                continue
            begin = _offset(body, 0, first - start)
            yield body[begin : _offset(body, begin, last - max(start, first))]

    def leaf_hashes(self, first: int, count: int) -> bytes:
        """Return the packed leaf hashes (32 octets each) of ``count`` entries from ``first``."""
        parts = []
        for start, _, packed in self._rows(first, first + count, "leaf_hashes"):
            low, high = max(first - start, 0), first + count - start
            parts.append(packed[32 * low : 32 * high])
        return b"".join(parts)

    def _rows(self, first: int, last: int, column: str) -> Iterator[tuple[int, int, bytes]]:
        """Yield (first entry, count, column) of every row that touches the range."""
        at = first
        while at < last:
            with self._reading, naming_failures():
                row = self._reader.execute(
                    f"SELECT first, count, {column} FROM entry WHERE first <= ? ORDER BY first DESC LIMIT 1",  # noqa: S608
                    (at,),
                ).fetchone()
            if row is None or row[0] + row[1] <= at:
                return
            yield row
            at = row[0] + row[1]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the ledger however long it takes; other processes go on writing."""
        with self._reading, naming_failures():
            self._reader.execute("BEGIN")
            try:
                yield
            finally:
                self._reader.execute("ROLLBACK")

    def rows(self, query: str) -> Generator[tuple[object, ...], None, None]:
        """Yield the rows of a reading query (for replay and comparison)."""
        cursor = self._reader.cursor()
        yield from cursor.execute(query)

    def publication(self) -> Publication:
        """Return the last signed head."""
        with self._reading, naming_failures():
            row = self._reader.execute("SELECT published, frontier, checkpoint FROM head").fetchone()
        return Publication(size=row[0], frontier=row[1], checkpoint=row[2])

    def record_publication(self, publication: Publication) -> None:
        """Make a signed head durable before anybody sees it; heads only grow, and one size has one root."""
        with self.transaction():
            changed = self._database.execute(
                "UPDATE head SET published = ?1, frontier = ?2, checkpoint = ?3"
                " WHERE (published < ?1 OR (published = ?1 AND frontier = ?2)) AND size >= ?1",
                (publication.size, publication.frontier, publication.checkpoint),
            ).rowcount
            if changed != 1:
                raise Refused(
                    "log.head.not_growing",
                    f"a head of {publication.size} entries cannot follow the one that was signed",
                    hint="Another process published meanwhile; publish again.",
                    size=publication.size,
                )

    def leave_checkpoints(self) -> None:
        """Let somebody else move the write-ahead log into the database: bulk commits then never wait for it."""
        with self._writing, naming_failures():
            self._database.execute("PRAGMA wal_autocheckpoint = 0")

    def checkpoint(self) -> None:
        """Move what is committed from the write-ahead log into the database file, as far as nobody reads it."""
        with self._writing, naming_failures():
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        with self._writing, self._reading:
            self._database.close()
            self._reader.close()
