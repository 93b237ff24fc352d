"""Sealed private keys beside the log: slots of equal size, overwritten when they are erased."""

from __future__ import annotations

from collections.abc import Callable

from birthmark.adapters.ledgers.sql.database import Database
from birthmark.errors import Refused
from birthmark.ports import SealedChunk

__all__ = ["SqlVault"]

_READ = """
SELECT encapsulated, substr(slots, CAST(1 + ?2 * slot_size AS INTEGER), CAST(slot_size AS INTEGER)) FROM vault
WHERE intent = ?1 AND ?2 >= 0"""


class SqlVault:
    """Implements ``ports.Vault`` inside the caller's transaction.

    ``overwrite(intent, at, octets)`` puts zeros at an offset of a chunk's slots; each dialect has its own way.
    """

    def __init__(self, database: Database, overwrite: Callable[[int, int, int], None]) -> None:
        self._database = database
        self._overwrite = overwrite

    def put(self, intent: int, chunk: SealedChunk) -> None:
        row = (intent, chunk.encapsulated, chunk.slot_size, chunk.slots)
        query = "INSERT INTO vault VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        if self._database.execute(query, row).rowcount != 1:
            raise Refused(
                "ledger.exists",
                f"the keys of intent {intent} are in the vault already",
                hint="What is on record is never replaced.",
                table="vault",
                name=str(intent),
            )

    def read(self, intent: int, position: int) -> tuple[bytes, bytes] | None:
        row = self._database.execute(_READ, (intent, position)).fetchone()
        if row is None or not row[1].strip(b"\0"):
            return None
        return row[0], row[1]

    def chunk(self, intent: int) -> SealedChunk | None:
        row = self._database.execute(
            "SELECT encapsulated, slot_size, slots FROM vault WHERE intent = ?", (intent,)
        ).fetchone()
        return None if row is None else SealedChunk(*row)

    def erase(self, intent: int, position: int) -> None:
        row = self._database.execute(
            "SELECT slot_size, length(slots) FROM vault WHERE intent = ?", (intent,)
        ).fetchone()
        if row is None or not 0 <= position < row[1] // row[0]:
            return
        self._overwrite(intent, position * row[0], row[0])
