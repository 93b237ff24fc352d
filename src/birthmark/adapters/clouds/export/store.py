"""The file of an export and its index. The file is the truth; the index only finds the last line of each device.

Power cut: lines that were not acknowledged may be torn; at the next opening what cannot be read at the end of the file
is moved into ``torn``. The index is brought up to the file, or made again where it does not fit.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from birthmark.adapters.clouds.export.lines import read_line
from birthmark.adapters.durable import naming_os_errors, sync_directory
from birthmark.errors import StationFault, Tampered
from birthmark.ports import CloudRecord, Standing

__all__ = ["ExportStore"]

_LINES, _INDEX, _TORN = "devices.jsonl", "index.db", "torn"
_LONGEST = 1 << 20
_HASH = 32
_CHUNK = 5000
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS device (device_serial TEXT PRIMARY KEY, enabled INTEGER NOT NULL,
         certificates BLOB NOT NULL) WITHOUT ROWID""",
)
_PUT = "INSERT OR REPLACE INTO device VALUES (?, ?, ?)"
_PAGE = "SELECT * FROM device WHERE device_serial > ? ORDER BY device_serial LIMIT ?"

_Row = tuple[str, bool, bytes]


class ExportStore:
    """An open export; of one thread at a time. All is done inside ``alone``: several processes may have it open."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with naming_os_errors(directory):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(directory / _LINES, flags, 0o644)
        try:
            sync_directory(directory)
            with self._locked():
                self._index = self._open_index()
        except BaseException:
            os.close(self._descriptor)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with naming_os_errors(self._directory):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the export; the index fits the file inside."""
        with self._locked():
            self._catch_up()
            yield

    def _open_index(self) -> sqlite3.Connection:
        path = self._directory / _INDEX
        try:
            return _index(path)
        except sqlite3.DatabaseError:
            for name in (_INDEX, f"{_INDEX}-wal", f"{_INDEX}-shm"):
                with suppress(FileNotFoundError):
                    (self._directory / name).unlink()
        try:
            return _index(path)
        except sqlite3.DatabaseError as problem:
            raise _index_failed(path, problem) from problem

    def _noted(self, name: str) -> int:
        row = self._index.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def _catch_up(self) -> None:
        with naming_os_errors(self._directory):
            status, covered = os.fstat(self._descriptor), self._noted("covered")
            if covered == status.st_size and self._noted("changed") == status.st_mtime_ns:
                return
            grown = 0 < covered < status.st_size and os.pread(self._descriptor, 1, covered - 1) == b"\n"
            if grown and self._read_on(covered, status.st_size) is None:
                return
            self.read_again()

    def read_again(self) -> None:
        """Make the index anew from the file; ``Tampered("cloud.export.malformed")`` names a damaged line."""
        with naming_os_errors(self._directory):
            self._index.execute("DELETE FROM device")
            self._index.execute("DELETE FROM meta")
            size = os.fstat(self._descriptor).st_size
            bad = self._read_on(0, size)
            if bad is not None:
                self._cut(bad, size)

    def _read_on(self, at: int, size: int) -> int | None:
        """Index the lines from ``at`` on; return where what cannot be read begins, if it lasts to the end."""
        bad: int | None = None
        rows: list[_Row] = []
        with open(self._directory / _LINES, "rb") as file:
            file.seek(at)
            while at < size:
                text = file.readline(_LONGEST)
                found = read_line(text[:-1]) if text.endswith(b"\n") else None
                if found is None:
                    bad = at if bad is None else bad
                elif bad is not None:
                    raise self._malformed(bad)
                else:
                    line, hashes = found
                    rows.append((line.device_serial, line.standing == "enabled", bytes.fromhex("".join(hashes))))
                at += len(text)
                if len(rows) == _CHUNK:
                    self._put(rows, at)
                    rows = []
        self._put(rows, at if bad is None else bad)
        return bad

    def _cut(self, at: int, size: int) -> None:
        torn = os.open(self._directory / _TORN, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _write(torn, os.pread(self._descriptor, size - at, at) + b"\n")
            os.fsync(torn)
        finally:
            os.close(torn)
        os.ftruncate(self._descriptor, at)
        os.fsync(self._descriptor)

    def _malformed(self, at: int) -> Tampered:
        return Tampered(
            "cloud.export.malformed",
            f"{self._directory / _LINES} is damaged at octet {at}, and goes on behind it",
            hint="Somebody changed the file: restore it, or move the directory away and tell the registry everything.",
            path=str(self._directory / _LINES),
            octet=at,
        )

    def _put(self, rows: Sequence[_Row], covered: int) -> None:
        try:
            self._index.execute("BEGIN IMMEDIATE")
            self._index.executemany(_PUT, rows)
            # The time as well: who changes the file in place need not change its size.
            noted = [("covered", covered), ("changed", os.fstat(self._descriptor).st_mtime_ns)]
            self._index.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", noted)
            self._index.execute("COMMIT")
        except sqlite3.Error as problem:
            with suppress(sqlite3.Error):
                self._index.execute("ROLLBACK")
            raise _index_failed(self._directory / _INDEX, problem) from problem

    def find(self, device_serial: str) -> CloudRecord | None:
        row = self._index.execute("SELECT * FROM device WHERE device_serial = ?", (device_serial,)).fetchone()
        return None if row is None else _record(row)

    def append(self, lines: Sequence[bytes], records: Sequence[CloudRecord]) -> None:
        """Add lines that say ``records``; they are on disk on return."""
        with naming_os_errors(self._directory):
            _write(self._descriptor, b"".join(lines))
            os.fsync(self._descriptor)
            size = os.fstat(self._descriptor).st_size
        rows = [(r.key, r.standing == "enabled", bytes.fromhex("".join(r.certificates))) for r in records]
        self._put(rows, size)

    def page(self, after: str, limit: int) -> list[CloudRecord]:
        return [_record(row) for row in self._index.execute(_PAGE, (after, limit))]

    def close(self) -> None:
        self._index.close()
        os.close(self._descriptor)


def _index(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # What the index loses in a power cut it reads from the file again.
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", *_SCHEMA):
            database.execute(statement)
    except BaseException:
        database.close()
        raise
    return database


def _index_failed(path: Path, problem: sqlite3.Error) -> StationFault:
    return StationFault(
        "cloud.export.index",
        f"{path}: {problem}",
        hint="Check the disk; the index may be deleted, it is made again from devices.jsonl.",
        path=str(path),
    )


def _record(row: tuple[str, int, bytes]) -> CloudRecord:
    serial, enabled, packed = row
    standing: Standing = "enabled" if enabled else "blocked"
    hashes = tuple(packed[at : at + _HASH].hex() for at in range(0, len(packed), _HASH))
    return CloudRecord(serial, serial, standing, hashes)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
