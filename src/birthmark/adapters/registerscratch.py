"""Room for comparing what a cloud holds with what it should hold: a SQLite file without a name."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors
from birthmark.ports import CloudRecord

__all__ = ["SqliteScratch"]

_PRAGMAS = ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -32000")
_SCHEMA = (
    "CREATE TABLE device (device_serial TEXT PRIMARY KEY) WITHOUT ROWID",
    """CREATE TABLE expected (record TEXT PRIMARY KEY, device_serial TEXT NOT NULL, name TEXT NOT NULL,
         enabled INTEGER NOT NULL, certificates BLOB NOT NULL, seen INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
)
_HASH = 32
_EXPECTED = "SELECT record, name, enabled, certificates, device_serial FROM expected"


class SqliteScratch:
    """Implements ``ports.ScratchRecords`` below ``directory``. What stands here is made again from the log."""

    def __init__(self, directory: Path) -> None:
        with naming_os_errors(directory):
            # Removed at once: whatever ends the process takes the octets with it.
            self._file = tempfile.NamedTemporaryFile(dir=directory, prefix=".compare-")  # noqa: SIM115
        self._database = sqlite3.connect(self._file.name, isolation_level=None, check_same_thread=False)
        for statement in (*_PRAGMAS, *_SCHEMA):
            self._database.execute(statement)
        self._file.close()
        self._database.execute("BEGIN")

    def touch(self, device_serials: Sequence[str]) -> None:
        self._database.executemany("INSERT OR IGNORE INTO device VALUES (?)", [(serial,) for serial in device_serials])

    def devices(self, after: str, limit: int) -> Sequence[str]:
        query = "SELECT device_serial FROM device WHERE device_serial > ? ORDER BY device_serial LIMIT ?"
        return [serial for (serial,) in self._database.execute(query, (after, limit))]

    def expect(self, records: Sequence[tuple[str, CloudRecord]]) -> None:
        rows = [
            (record.key, serial, record.name, record.standing == "enabled", bytes.fromhex("".join(record.certificates)))
            for serial, record in records
        ]
        self._database.executemany(
            "INSERT INTO expected VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (record) DO NOTHING", rows
        )

    def match(self, records: Sequence[CloudRecord]) -> Sequence[tuple[str, CloudRecord] | None]:
        found: list[tuple[str, CloudRecord] | None] = []
        for record in records:
            row = self._database.execute(f"{_EXPECTED} WHERE record = ?", (record.key,)).fetchone()
            found.append(None if row is None else _expected(row))
        self._database.executemany(
            "UPDATE expected SET seen = 1 WHERE record = ?", [(record.key,) for record in records]
        )
        return found

    def unseen(self, after: str, limit: int) -> Sequence[tuple[str, CloudRecord]]:
        query = f"{_EXPECTED} WHERE seen = 0 AND record > ? ORDER BY record LIMIT ?"
        return [_expected(row) for row in self._database.execute(query, (after, limit))]

    def close(self) -> None:
        self._database.close()


def _expected(row: tuple[str, str, int, bytes, str]) -> tuple[str, CloudRecord]:
    record, name, enabled, packed, serial = row
    certificates = tuple(packed[at : at + _HASH].hex() for at in range(0, len(packed), _HASH))
    return serial, CloudRecord(record, name, "enabled" if enabled else "blocked", certificates)
