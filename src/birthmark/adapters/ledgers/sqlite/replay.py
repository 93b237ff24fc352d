"""Rebuilding the tables from the log, and comparing them with those that are there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import groupby

from birthmark.adapters.ledgers.sql.fold import Fold
from birthmark.adapters.ledgers.sql.schema import FOLDED_TABLES
from birthmark.adapters.ledgers.sql.store import SqlLedger
from birthmark.adapters.ledgers.sqlite.connection import create_schema, naming_failures
from birthmark.errors import BirthmarkError, Tampered
from birthmark.model.events import Event, Issued, Received, decode_entry

__all__ = ["replay_ledger"]

_STEP = 4096


def replay_ledger(ledger: SqlLedger, *, progress: Callable[[int], None]) -> dict[str, int]:
    """Fold the whole log of any ledger into fresh SQLite tables and compare; return rows by table.

    ``Tampered("ledger.replay.differs")`` names the first table and row that differ,
    ``Tampered("ledger.replay.unlawful")`` an entry that cannot follow those before it.
    """
    with naming_failures(), ledger.snapshot(), closing(sqlite3.connect("", isolation_level=None)) as rebuilt:
        rebuilt.execute("BEGIN")
        create_schema(rebuilt)
        fold = Fold(rebuilt, _known_nowhere)
        for seq, event, attachment, count in _grouped(ledger):
            try:
                if count > 1 or _is_bulk(rebuilt, event):
                    assert isinstance(event, Issued | Received)  # noqa: S101  only certificates are grouped
                    fold.issued_chunk(event.intent, count=count, first=seq)
                else:
                    fold.apply(event, attachment, seq)
            except BirthmarkError as problem:
                raise Tampered(
                    "ledger.replay.unlawful",
                    f"entry {seq} cannot follow the entries before it: {problem.message}",
                    hint="Run `birthmark audit verify`; do not continue with this ledger.",
                    entry=seq,
                ) from problem
            progress(count)
        return {name: _compare(name, rebuilt, ledger) for name in FOLDED_TABLES}


def _known_nowhere(hashes: Sequence[bytes], seq: int) -> bytes | None:
    # The log is replayed as it is; whether a key stands twice is the audit's question.
    return None


def _is_bulk(database: sqlite3.Connection, event: Event) -> bool:
    if not isinstance(event, Issued | Received):
        return False
    row = database.execute("SELECT chunk FROM certificate WHERE intent = ?", (event.intent,)).fetchone()
    return row is not None and row[0] is not None


def _grouped(ledger: SqlLedger) -> Iterator[tuple[int, Event, bytes, int]]:
    """Yield (first sequence number, event, attachment, count): certificates of one intent together."""

    def decoded() -> Iterator[tuple[int, Event, bytes]]:
        first, size = 0, ledger.head().size
        while first < size:
            for seq, entry in ledger.entries(first, _STEP):
                yield seq, *decode_entry(entry)
            first += _STEP

    def key(item: tuple[int, Event, bytes]) -> tuple[int, int]:
        seq, event, _ = item
        return (event.intent, -1) if isinstance(event, Issued | Received) else (-1, seq)

    for _, group in groupby(decoded(), key):
        members = list(group)
        yield *members[0], len(members)


def _compare(table: str, rebuilt: sqlite3.Connection, ledger: SqlLedger) -> int:
    """Compare one table row by row, in key order; return its number of rows."""
    where = " WHERE name <> 'format'" if table == "meta" else ""
    query = f'SELECT * FROM "{table}"{where} ORDER BY 1, 2'  # noqa: S608
    count = 0
    with closing(ledger.rows(query)) as found:
        for expected in rebuilt.execute(query):
            if next(found, None) != expected:
                raise _differs(table, expected)
            count += 1
        if (extra := next(found, None)) is not None:
            raise _differs(table, extra)
    return count


def _differs(table: str, row: Sequence[object]) -> Tampered:
    name = "/".join(str(value) for value in row[:2])
    return Tampered(
        "ledger.replay.differs",
        f"table {table} is not what the log says, first at row {name}",
        hint="Run `birthmark audit verify`; the log is the truth, the table is not.",
        table=table,
        row=name,
    )
