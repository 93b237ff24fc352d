"""A disk that loses power, below SQLite, and an APSW connection that looks like the ``sqlite3`` one our ledger uses.

The disk keeps what was synced. Of the writes after the last sync of a file, a power cut keeps some, drops some and
tears some at a sector (512 octets): whatever the drive had time for, in any order.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw

__all__ = ["ApswDatabase", "Disk", "PowerCut"]

SECTOR = 512
_ERRORS: tuple[tuple[type[Exception], type[sqlite3.Error], str], ...] = (
    (apsw.ConstraintError, sqlite3.IntegrityError, "UNIQUE constraint failed"),
    (apsw.FullError, sqlite3.OperationalError, "database or disk is full"),
    (apsw.BusyError, sqlite3.OperationalError, "database is locked"),
    (apsw.IOError, sqlite3.OperationalError, "disk I/O error"),
    (apsw.CorruptError, sqlite3.DatabaseError, "database disk image is malformed"),
    (apsw.NotADBError, sqlite3.DatabaseError, "file is not a database"),
    (apsw.Error, sqlite3.OperationalError, "SQLite failed"),
)


class PowerCut(Exception):
    """The power went at this write or sync."""


class Disk:
    """Files by name. ``cut_at`` counts writes, truncations, deletions and syncs from the moment it is set."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._durable = {name: bytearray(data) for name, data in files.items()}
        self.seen = {name: bytearray(data) for name, data in files.items()}
        self._pending: list[tuple[str, int, bytes | None]] = []
        self.operations = self.syncs = 0
        self.cut_at: int | None = None
        self.dead = False

    def _count(self) -> bool:
        """Say whether the disk still works; the operation that the power cut meets raises."""
        if self.dead:
            return False
        self.operations += 1
        if self.operations == self.cut_at:
            self.dead = True
            raise PowerCut
        return True

    def change(self, name: str, at: int, data: bytes | None) -> None:
        """Write ``data`` at an offset, or cut the file off there."""
        if self.dead:
            return
        # Also the write that the power cut meets may have reached the disk.
        self._pending.append((name, at, data))
        if self._count():
            _apply(self.seen, name, at, data)

    def sync(self, name: str) -> None:
        if not self._count():
            return
        self.syncs += 1
        for change in [change for change in self._pending if change[0] == name]:
            _apply(self._durable, *change)
        self._pending = [change for change in self._pending if change[0] != name]

    def delete(self, name: str) -> None:
        if self._count():
            self.seen.pop(name, None)
            self._durable.pop(name, None)
            self._pending = [change for change in self._pending if change[0] != name]

    def after_power_cut(self, seed: int) -> Disk:
        """Return what is found when the power is back."""
        self.dead = True
        chance = random.Random(seed)
        for name, at, data in self._pending:
            fate = chance.random()
            if fate < 0.4:
                _apply(self._durable, name, at, data)
            elif fate < 0.6 and data is not None and len(data) > SECTOR:
                _apply(self._durable, name, at, data[: SECTOR * chance.randrange(1, len(data) // SECTOR + 1)])
        return Disk({name: bytes(data) for name, data in self._durable.items()})


def _apply(files: dict[str, bytearray], name: str, at: int, data: bytes | None) -> None:
    content = files.setdefault(name, bytearray())
    if data is None:
        del content[at:]
        return
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


class _File:
    """What SQLite sees of a file; see https://sqlite.org/c3ref/io_methods.html."""

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk = disk
        self._name = name
        disk.seen.setdefault(name, bytearray())

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._disk.seen[self._name][offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.change(self._name, offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.change(self._name, size, None)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync(self._name)

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._disk.seen[self._name])

    def xLock(self, level: int) -> None:  # noqa: N802
        return

    def xUnlock(self, level: int) -> None:  # noqa: N802
        return

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, operation: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        # As the real one on Unix: a torn write does not damage its neighbours.
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xClose(self) -> None:  # noqa: N802
        return


class _Vfs(apsw.VFS):
    """Gives every connection the disk that is in ``disk`` when it opens."""

    disk: Disk

    def __init__(self) -> None:
        super().__init__("losing-power", "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        return _File(self.disk, name if isinstance(name, str) else name.filename())

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        self.disk.delete(name)

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        return name in self.disk.seen

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


_vfs = _Vfs()


class ApswDatabase:
    """As much of ``sqlite3.Connection`` as the ledger uses, on a :class:`Disk`."""

    def __init__(self, path: Path, disk: Disk, pragmas: Iterable[str]) -> None:
        _vfs.disk = disk
        self._connection = apsw.Connection(str(path), vfs="losing-power")
        # The index of the WAL then lives in memory and not in a shared file.
        for pragma in ("PRAGMA locking_mode = EXCLUSIVE", *pragmas):
            self.execute(pragma)

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    def cursor(self) -> ApswDatabase:
        return self

    def execute(self, query: str, values: Sequence[object] = ()) -> _Rows:
        return _Rows(self._connection, self._mapped(self._connection.execute, query, values))

    def executemany(self, query: str, rows: Iterable[Sequence[object]]) -> SimpleNamespace:
        before = self._connection.total_changes()
        self._mapped(self._connection.executemany, query, rows)
        return SimpleNamespace(rowcount=self._connection.total_changes() - before)

    def blobopen(self, table: str, column: str, row: int) -> Any:
        return self._mapped(self._connection.blob_open, "main", table, column, row, True)

    def close(self) -> None:
        self._connection.close(True)

    @staticmethod
    def _mapped(act: Any, *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except apsw.Error as problem:
            for theirs, ours, text in _ERRORS:
                if isinstance(problem, theirs):
                    raise ours(text) from problem
            raise


class _Rows:
    """A cursor that has run: the first row is fetched already."""

    def __init__(self, connection: apsw.Connection, cursor: Any) -> None:
        self.rowcount = connection.changes()
        self._cursor = cursor

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        return list(self._cursor.fetchall())
