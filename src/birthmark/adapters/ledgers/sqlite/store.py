"""The SQLite ledger: one file, WAL, every commit synced."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors, sync_directory
from birthmark.adapters.ledgers.sql.keyruns import KeyIndex
from birthmark.adapters.ledgers.sql.records import SqlRecords
from birthmark.adapters.ledgers.sql.store import SqlLedger, write_first
from birthmark.adapters.ledgers.sql.vault import SqlVault
from birthmark.adapters.ledgers.sqlite.connection import connect, create, create_schema, naming_failures, read_meta
from birthmark.adapters.ledgers.sqlite.runtable import RunTable
from birthmark.errors import Refused, StationFault
from birthmark.model import events as e

__all__ = ["SqliteLedger"]


def _write_first(path: Path, first: e.WorkspaceCreated) -> None:
    """Make the ledger file with its schema and its first entry."""
    database = create(path)
    try:
        database.execute("BEGIN IMMEDIATE")
        create_schema(database)
        write_first(database, first)
        database.execute("COMMIT")
    finally:
        database.close()


class SqliteLedger(SqlLedger):
    """The embedded ledger.

    Power cut: a commit that returned is on disk (WAL, FULL); one that did not is gone as a whole. After an I/O error
    the object refuses further work, since the kernel may have dropped the dirty pages.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime]) -> None:
        database = connect(path)
        try:
            meta = read_meta(database, path)
        except BaseException:
            database.close()
            raise
        self._database = database
        self.path = path
        self._broken = False
        super().__init__(
            database,
            self._connect_reader(path),
            keys=KeyIndex(database, path.parent / "runs", RunTable(database)),
            meta=meta,
            clock=clock,
            naming=naming_failures,
        )

    @property
    def writer_records(self) -> SqlRecords:
        """A reading connection loads its pages anew after every commit of another one; the writing one has them."""
        return SqlRecords(self._database, self._writing, naming_failures)

    def _connect_reader(self, path: Path) -> sqlite3.Connection:
        return connect(path)

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

    @property
    def _vault(self) -> SqlVault:
        return SqlVault(self._database, self._overwrite)

    def _overwrite(self, intent: int, at: int, octets: int) -> None:
        with self._database.blobopen("vault", "slots", intent) as slots:
            slots.seek(at)
            slots.write(bytes(octets))

    def _begin(self) -> tuple[int, int]:
        if self._broken:
            raise StationFault(
                "ledger.io",
                "the ledger failed before and may have lost its unwritten pages",
                hint="Check the disk; then start again, recovery runs by itself.",
            )
        self._database.execute("BEGIN IMMEDIATE")
        size, serial_time = self._database.execute("SELECT size, serial_time FROM head").fetchone()
        return size, serial_time

    def _commit(self) -> None:
        self._database.execute("COMMIT")

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
        try:
            self._database.execute("BEGIN IMMEDIATE")
            obsolete = self.keys.flush()
            self._database.execute("COMMIT")
            for path in obsolete:
                path.unlink(missing_ok=True)
        except (sqlite3.Error, OSError) as problem:
            self.keys.postpone()
            self._roll_back(problem)
        except BaseException as problem:
            self.keys.forget(0)
            self._roll_back(problem)
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._reading, naming_failures():
            self._reader.execute("BEGIN")
            try:
                yield
            finally:
                self._reader.execute("ROLLBACK")

    def rows(self, query: str) -> Generator[tuple[object, ...], None, None]:
        yield from self._reader.cursor().execute(query)

    def leave_checkpoints(self) -> None:
        with self._writing, naming_failures():
            self._database.execute("PRAGMA wal_autocheckpoint = 0")

    def checkpoint(self) -> None:
        with self._writing, naming_failures():
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
