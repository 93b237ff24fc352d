"""Sealed private keys beside the log: slots of equal size, erased in place."""

from __future__ import annotations

import sqlite3

from birthmark.errors import Refused
from birthmark.ports import SealedChunk

__all__ = ["SqliteVault"]


class SqliteVault:
    """Implements ``ports.Vault`` inside the caller's transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def put(self, intent: int, chunk: SealedChunk) -> None:
        try:
            self._database.execute(
                "INSERT INTO vault VALUES (?, ?, ?, ?)", (intent, chunk.encapsulated, chunk.slot_size, chunk.slots)
            )
        except sqlite3.IntegrityError:
            raise Refused(
                "ledger.exists",
                f"the keys of intent {intent} are in the vault already",
                hint="What is on record is never replaced.",
                table="vault",
                name=str(intent),
            ) from None

    def read(self, intent: int, position: int) -> tuple[bytes, bytes] | None:
        row = self._database.execute(
            "SELECT encapsulated, substr(slots, 1 + ?2 * slot_size, slot_size) FROM vault"
            " WHERE intent = ?1 AND ?2 >= 0",
            (intent, position),
        ).fetchone()
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
        slot_size = row[0]
        with self._database.blobopen("vault", "slots", intent) as slots:
            slots.seek(position * slot_size)
            slots.write(bytes(slot_size))
