"""One open transaction of a SQL ledger: entries, their fold and the sealed keys, kept together or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from birthmark.adapters.ledgers.sql.database import Database
from birthmark.adapters.ledgers.sql.fold import Fold
from birthmark.adapters.ledgers.sql.keyruns import KeyIndex
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.ports import Vault

__all__ = ["SqlTransaction"]

_ENTRY_LIMIT = 65535
_ROW_LIMIT = 65536
"""Octets after which collected entries become a row of their own, so that reading one entry stays cheap."""


class _Owner(Protocol):
    """What a transaction needs of its ledger."""

    fold: Fold
    keys: KeyIndex
    clock: Callable[[], datetime]
    site_prefix: bytes


class SqlTransaction:
    """One open transaction; see ``ports.Transaction`` for the laws."""

    def __init__(self, ledger: _Owner, database: Database, vault: Vault, *, size: int, serial_time: int) -> None:
        self._ledger = ledger
        self._database = database
        self._size = size
        self._serial_time = serial_time
        self._packed: list[bytes] = []
        self._leaves: list[bytes] = []
        self._octets = 0
        self._first = self.begun_at = self._size
        self._refusal: BaseException | None = None
        self.vault = vault

    def append(self, event: e.Event, attachment: bytes = b"") -> int:
        entry = _encoded(event, attachment)
        seq = self._size
        try:
            self._ledger.fold.apply(event, attachment, seq)
        except BaseException as problem:
            # Some of its rows may be changed already: whoever catches this cannot keep the transaction.
            self._refusal = problem
            raise
        self._keep(entry)
        return seq

    def append_together(self, steps: Sequence[tuple[e.Event, bytes]]) -> int:
        first = self._size
        entries = [_encoded(event, attachment) for event, attachment in steps]
        numbered = [(event, attachment, first + place) for place, (event, attachment) in enumerate(steps)]
        try:
            if not self._ledger.fold.apply_together(numbered):
                raise Refused(
                    "ledger.together",
                    f"one of {len(steps)} events is not lawful",
                    hint="Append them one by one: the one that is refused then says why.",
                )
        except BaseException as problem:
            self._refusal = problem
            raise
        for entry in entries:
            self._keep(entry)
        return first

    def _keep(self, entry: bytes) -> None:
        """Collect an entry that is folded already."""
        self._packed += (len(entry).to_bytes(2, "big"), entry)
        self._leaves.append(hashlib.sha256(b"\0" + entry).digest())
        self._size += 1
        self._octets += len(entry)
        if self._octets > _ROW_LIMIT:
            self._flush()

    @contextmanager
    def part(self) -> Iterator[None]:
        self._flush()
        begun, serial_time = self._size, self._serial_time
        self._database.execute("SAVEPOINT part")
        try:
            yield
            if self._refusal is not None:
                raise self._refusal
            self._flush()
        except BaseException:
            # ROLLBACK TO fails only when the whole transaction is gone already; then nothing of it is kept.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK TO part")
                self._database.execute("RELEASE part")
            self._ledger.keys.forget(begun)
            self._packed, self._leaves, self._octets, self._refusal = [], [], 0, None
            self._size = self._first = begun
            self._serial_time = serial_time
            raise
        self._database.execute("RELEASE part")

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


def _encoded(event: e.Event, attachment: bytes) -> bytes:
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
    return entry


def _packed_count(entries: bytes) -> int:
    """Return how many entries are packed, -1 if the last one is cut off."""
    at, count, end = 0, 0, len(entries)
    while at + 2 <= end:
        at += 2 + (entries[at] << 8 | entries[at + 1])
        count += 1
    return count if at == end else -1
