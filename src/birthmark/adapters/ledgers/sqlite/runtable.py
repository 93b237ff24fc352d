"""The catalog of key runs as a table of the ledger file: in the same transaction as the events."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from birthmark.adapters.ledgers.sql.keyruns import RunEntry

__all__ = ["RunTable"]


class RunTable:
    """Implements ``RunCatalog``; inside the caller's transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def rows(self) -> list[tuple[str, int]]:
        return self._database.execute("SELECT file, covered FROM key_run ORDER BY run").fetchall()

    def clear(self) -> None:
        self._database.execute("DELETE FROM key_run")

    def replace(self, obsolete: Sequence[str], run: RunEntry) -> None:
        (number,) = self._database.execute("SELECT 1 + coalesce(max(run), 0) FROM key_run").fetchone()
        self._database.executemany("DELETE FROM key_run WHERE file = ?", [(old,) for old in obsolete])
        row = (number, run.file, run.covered, run.count, run.sha256)
        self._database.execute("INSERT INTO key_run VALUES (?, ?, ?, ?, ?)", row)
