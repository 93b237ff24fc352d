"""A ledger over SQL: one writer at a time, every commit durable, the log and its tables in one transaction."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from threading import Lock, RLock
from typing import Any

from birthmark import __version__
from birthmark.adapters.ledgers.sql.database import Database
from birthmark.adapters.ledgers.sql.fold import Fold
from birthmark.adapters.ledgers.sql.keyruns import KeyIndex
from birthmark.adapters.ledgers.sql.records import SqlRecords
from birthmark.adapters.ledgers.sql.transaction import SqlTransaction
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.records import LogHead, Publication
from birthmark.ports import Vault

__all__ = ["SqlLedger", "write_first"]


def write_first(database: Database, first: e.WorkspaceCreated) -> None:
    """Write the first entry into empty tables."""
    entry = e.encode_entry(first)
    row = (len(entry).to_bytes(2, "big") + entry, hashlib.sha256(b"\0" + entry).digest())
    Fold(database, lambda hashes, seq: None).apply(first, b"", 0)
    database.execute("INSERT INTO entry VALUES (0, 1, ?, ?)", row)
    database.execute("INSERT INTO head VALUES (1, 1, 0, 0, ?, ?)", (b"", b""))


def _offset(packed: bytes, at: int, entries: int) -> int:
    """Return where ``entries`` packed entries from ``at`` end, or where the octets do."""
    end = len(packed)
    while entries > 0 and at < end:
        at += 2 + (packed[at] << 8 | packed[at + 1])
        entries -= 1
    return at


class SqlLedger(ABC):
    """Implements ``ports.Ledger`` and ``ports.Publisher`` and, through ``records``, ``ports.Records``.

    Reading has a connection of its own: it sees what is committed, and never waits for a writer or its sync. A
    transaction may be ended by another thread than began it.
    """

    def __init__(
        self,
        database: Any,
        reader: Any,
        *,
        keys: KeyIndex,
        meta: Mapping[str, str],
        clock: Callable[[], datetime],
        naming: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._database = database
        self._reader = reader
        self._writing, self._reading = Lock(), RLock()
        self._naming = naming
        self.clock = clock
        self.keys = keys
        self.fold = Fold(database, keys.claim)
        self.records = SqlRecords(reader, self._reading, naming)
        self.site_prefix = bytes.fromhex(meta["site_prefix"])
        self.origin = meta["origin"]
        self.software = meta["software"]

    @property
    def writer_records(self) -> SqlRecords:
        """The records for who writes a lot itself and asks between its transactions, in their thread: where that
        helps, they are read where they were just written."""
        return self.records

    @abstractmethod
    def _begin(self) -> tuple[int, int]:
        """Begin a transaction as the only writer; return the size of the log and the last serial time."""

    @abstractmethod
    def _commit(self) -> None: ...

    @abstractmethod
    def _roll_back(self, problem: BaseException) -> None:
        """Undo the open transaction, if there is one, after ``problem``."""

    @abstractmethod
    def _flush_keys(self) -> None:
        """Write a key run. It is a cache: if that fails the events before it stand, and it is tried again later."""

    @property
    @abstractmethod
    def _vault(self) -> Vault: ...

    def leave_checkpoints(self) -> None:  # noqa: B027  most databases look after themselves
        """Let somebody else move what is committed to its final place: bulk commits then never wait for it."""

    def checkpoint(self) -> None:  # noqa: B027
        """Move what is committed to its final place, as far as nobody reads it."""

    @contextmanager
    def exclusive(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold a named lock among all who use this ledger from other machines; tell whether it was to be had."""
        yield True

    def note_software(self, by: str) -> None:
        """Record that another version of the program writes from here on."""
        if self.software != __version__:
            with self.transaction() as tx:
                tx.append(e.SoftwareChanged(at=e.utc_text(self.clock()), software=__version__, by=by))
            self.software = __version__

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        with self._writing, self._naming():
            tx = None
            try:
                size, serial_time = self._begin()
                self.keys.begin()
                self.fold.begin()
                tx = SqlTransaction(self, self._database, self._vault, size=size, serial_time=serial_time)
                yield tx
                tx.finish()
                self._commit()
            except BaseException as problem:
                if tx is not None:
                    self.keys.forget(tx.begun_at)
                self._roll_back(problem)
                raise
            if self.keys.due():
                self._flush_keys()

    def head(self) -> LogHead:
        with self._reading, self._naming():
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
            with self._reading, self._naming():
                row = self._reader.execute(
                    f"SELECT first, count, {column} FROM entry WHERE first <= ? ORDER BY first DESC LIMIT 1",  # noqa: S608
                    (at,),
                ).fetchone()
            if row is None or row[0] + row[1] <= at:
                return
            yield row
            at = row[0] + row[1]

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """Read one state of the ledger however long it takes; other processes go on writing."""

    @abstractmethod
    def rows(self, query: str) -> Generator[tuple[object, ...], None, None]:
        """Yield the rows of a reading query inside a snapshot, in constant memory."""

    def publication(self) -> Publication:
        """Return the last signed head."""
        with self._reading, self._naming():
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

    def close(self) -> None:
        with self._writing, self._reading:
            self._database.close()
            self._reader.close()
