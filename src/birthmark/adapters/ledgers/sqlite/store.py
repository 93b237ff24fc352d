"""The SQLite ledger: one writer at a time, every commit durable, the log and its tables in one transaction."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import RLock

from birthmark import __version__
from birthmark.adapters.durable import naming_os_errors, sync_directory
from birthmark.adapters.ledgers.sqlite.connection import connect, create, create_schema, naming_failures, read_meta
from birthmark.adapters.ledgers.sqlite.fold import Fold
from birthmark.adapters.ledgers.sqlite.keyruns import KeyIndex, hashes_of
from birthmark.adapters.ledgers.sqlite.records import SqliteRecords
from birthmark.adapters.ledgers.sqlite.vault import SqliteVault
from birthmark.errors import Refused, StationFault
from birthmark.model import events as e
from birthmark.model.records import LogHead, Publication

__all__ = ["SqliteLedger"]

_ENTRY_LIMIT = 65535
_ROW_LIMIT = 65536
"""Octets after which collected entries become a row of their own, so that reading one entry stays cheap."""


class _Transaction:
    """One open transaction; see ``ports.Transaction`` for the laws."""

    def __init__(self, ledger: SqliteLedger, database: sqlite3.Connection) -> None:
        self._ledger = ledger
        self._database = database
        row = database.execute("SELECT size, serial_time FROM head").fetchone()
        self._size: int = row[0]
        self._serial_time: int = row[1]
        self._packed: list[bytes] = []
        self._leaves: list[bytes] = []
        self._octets = 0
        self._first = self.begun_at = self._size
        self._refusal: BaseException | None = None
        self.new_keys: list[tuple[int, list[bytes]]] = []
        self.vault = SqliteVault(database)

    def append(self, event: e.Event, attachment: bytes = b"") -> int:
        try:
            entry = e.encode_entry(event, attachment)
        except UnicodeEncodeError as problem:
            raise Refused(
                "log.entry.text",
                "an event holds text that is not Unicode",
                hint="Type the command again: an argument holds octets that are no UTF-8.",
                text=ascii(problem.object[:80]),
            ) from None
        if len(entry) > _ENTRY_LIMIT:
            raise Refused(
                "log.entry.too_long",
                f"an event of {len(entry)} octets does not fit into a log entry",
                hint="Split it: an entry has at most 65,535 octets.",
                octets=len(entry),
            )
        seq = self._size
        try:
            self._ledger.fold.apply(event, attachment, seq)
        except BaseException as problem:
            # Some of its rows may be changed already: whoever catches this cannot keep the transaction.
            self._refusal = problem
            raise
        if isinstance(event, e.Reserved):
            self.new_keys.append((seq, hashes_of(attachment)))
        self._packed += (len(entry).to_bytes(2, "big"), entry)
        self._leaves.append(hashlib.sha256(b"\0" + entry).digest())
        self._size += 1
        self._octets += len(entry)
        if self._octets > _ROW_LIMIT:
            self._flush()
        return seq

    def append_issued(self, intent: int, *, count: int, entries: bytes, leaf_hashes: bytes) -> int:
        self._flush()
        first = self._size
        if len(leaf_hashes) != 32 * count or _packed_count(entries) != count:
            raise Refused(
                "ledger.records",
                f"not {count} entries with their leaf hashes",
                hint="Run the same command again; if it repeats, the key-making program is damaged.",
                intent=intent,
            )
        self._ledger.fold.issued_chunk(intent, count=count, first=first)
        self._insert(first, count, entries, leaf_hashes)
        self._size = self._first = first + count
        return first

    def serial_prefixes(self, count: int) -> list[bytes]:
        now = int(self._ledger.clock().timestamp() * 1000)
        start = max(now, self._serial_time + 1)
        self._serial_time = start + count - 1
        return [self._ledger.site_prefix + at.to_bytes(6, "big") for at in range(start, start + count)]

    def finish(self) -> None:
        """Write what is collected and the head; a transaction with a refused event is not kept."""
        if self._refusal is not None:
            raise self._refusal
        self._flush()
        self._database.execute("UPDATE head SET size = ?, serial_time = ?", (self._size, self._serial_time))

    def _flush(self) -> None:
        if self._leaves:
            self._insert(self._first, len(self._leaves), b"".join(self._packed), b"".join(self._leaves))
            self._packed, self._leaves, self._octets = [], [], 0
        self._first = self._size

    def _insert(self, first: int, count: int, body: bytes, leaf_hashes: bytes) -> None:
        self._database.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (first, count, body, leaf_hashes))


def _packed_count(entries: bytes) -> int:
    """Return how many entries are packed, -1 if the last one is cut off."""
    at, count, end = 0, 0, len(entries)
    while at + 2 <= end:
        at += 2 + (entries[at] << 8 | entries[at + 1])
        count += 1
    return count if at == end else -1


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
        self._lock = RLock()
        self._broken = False
        self.clock = clock
        self.path = path
        self._keys = KeyIndex(self._database, path.parent / "runs")
        self.fold = Fold(self._database, self._keys.find)
        self.records = SqliteRecords(self._database, self._lock)
        self.site_prefix = bytes.fromhex(meta["site_prefix"])
        self.origin = meta["origin"]
        self.software = meta["software"]

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
    def transaction(self) -> Iterator[_Transaction]:
        with self._lock, naming_failures():
            if self._broken:
                raise StationFault(
                    "ledger.io",
                    "the ledger failed before and may have lost its unwritten pages",
                    hint="Check the disk; then start again, recovery runs by itself.",
                )
            self._database.execute("BEGIN IMMEDIATE")
            tx = None
            try:
                tx = _Transaction(self, self._database)
                yield tx
                tx.finish()
                self._database.execute("COMMIT")
            except BaseException as problem:
                if tx is not None:
                    self._keys.forget(tx.begun_at)
                self._roll_back(problem)
                raise
            for intent, hashes in tx.new_keys:
                self._keys.add(hashes, intent)
            if self._keys.due():
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
            obsolete = self._keys.flush()
            self._database.execute("COMMIT")
            for path in obsolete:
                path.unlink(missing_ok=True)
        except (sqlite3.Error, OSError) as problem:
            self._keys.postpone()
            self._roll_back(problem)
        except BaseException as problem:
            self._keys.forget(0)
            self._roll_back(problem)
            raise

    def head(self) -> LogHead:
        with self._lock, naming_failures():
            size, published = self._database.execute("SELECT size, published FROM head").fetchone()
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
            with self._lock, naming_failures():
                row = self._database.execute(
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
        with self._lock, naming_failures():
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("ROLLBACK")

    def rows(self, query: str) -> Generator[tuple[object, ...], None, None]:
        """Yield the rows of a reading query (for replay and comparison)."""
        cursor = self._database.cursor()
        yield from cursor.execute(query)

    def publication(self) -> Publication:
        """Return the last signed head."""
        with self._lock, naming_failures():
            row = self._database.execute("SELECT published, frontier, checkpoint FROM head").fetchone()
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
        with self._lock, naming_failures():
            self._database.execute("PRAGMA wal_autocheckpoint = 0")

    def checkpoint(self) -> None:
        """Move what is committed from the write-ahead log into the database file, as far as nobody reads it."""
        with self._lock, naming_failures():
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        with self._lock:
            self._database.close()
