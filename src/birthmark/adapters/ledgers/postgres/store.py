"""The PostgreSQL ledger: any number of processes and machines write it, one transaction at a time.

The row of ``head`` is the sequencer: who has locked it numbers the next entries, and the lock ends with its
transaction. So numbers have no gaps, a certificate serial prefix is given once, and what a transaction sees is
everything before it. A writer that stands still (stopped, cut off) loses its session after ``stall_s``; when it goes
on, its session is gone and nothing of its transaction was kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg

from birthmark.adapters.ledgers.postgres.connection import PostgresDatabase, naming_failures
from birthmark.adapters.ledgers.postgres.runfile import RunFile
from birthmark.adapters.ledgers.postgres.tables import create_schema, read_meta
from birthmark.adapters.ledgers.sql.keyruns import KeyIndex
from birthmark.adapters.ledgers.sql.store import SqlLedger, write_first
from birthmark.adapters.ledgers.sql.vault import SqlVault
from birthmark.errors import Refused, StationFault, Unavailable
from birthmark.model import events as e
from birthmark.model.secret import Secret

__all__ = ["PostgresAddress", "PostgresLedger"]

_STREAM_ROWS = 1000
_WAIT_S = 600.0
"""How long a named lock is waited for by who is ready to wait."""


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where the database is. ``conninfo``: libpq's, without a password; ``password`` never shows in a repr.

    ``stall_s``: how long a writer may stand still inside a transaction; ``lock_s``: how long others wait for it.
    """

    conninfo: str
    password: Secret | None = None
    stall_s: float = 20.0
    lock_s: float = 30.0

    def __repr__(self) -> str:
        return "PostgresAddress()"

    def connect(self, *, reads: bool = False, lock_s: float | None = None) -> PostgresDatabase:
        """Open one connection."""
        wait = self.lock_s if lock_s is None else lock_s
        return PostgresDatabase(self.conninfo, self.password, stall_s=self.stall_s, lock_s=wait, reads=reads)


class PostgresLedger(SqlLedger):
    """The shared ledger. ``directory``: of this machine, for key runs (a cache).

    Power cut or death of the server: a commit that returned is on disk (``synchronous_commit``, ``fsync``); one that
    did not is gone as a whole. Death of the connection during a commit: nobody knows, and the caller is told so
    (``Unavailable("ledger.commit.unknown")``); it looks its attempt or intent up when it tries again.
    """

    def __init__(self, address: PostgresAddress, *, directory: Path, clock: Callable[[], datetime]) -> None:
        self._address = address
        self._directory = directory
        with naming_failures():
            database = address.connect()
            try:
                meta = read_meta(database)
                reader = address.connect(reads=True)
            except BaseException:
                database.close()
                raise
        self._database: PostgresDatabase = database
        self._reader: PostgresDatabase = reader
        runs = RunFile(directory / "runs" / "catalog", self._leaf)
        super().__init__(
            database,
            reader,
            keys=KeyIndex(database, directory / "runs", runs),
            meta=meta,
            clock=clock,
            naming=naming_failures,
        )

    @classmethod
    def create(
        cls, address: PostgresAddress, *, directory: Path, first: e.WorkspaceCreated, clock: Callable[[], datetime]
    ) -> PostgresLedger:
        """Make the tables and the first entry ``first``; a schema that holds a ledger is never touched.

        Power cut: one transaction makes everything, or nothing is there.
        """
        with naming_failures():
            database = address.connect()
            try:
                database.execute("BEGIN")
                try:
                    create_schema(database)
                except (psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation):
                    raise Refused(
                        "ledger.file_exists",
                        "the database schema already holds tables of a ledger",
                        hint="Name another database or schema in [ledger] for a new workspace.",
                    ) from None
                write_first(database, first)
                database.execute("COMMIT")
            finally:
                database.close()
        return cls(address, directory=directory, clock=clock)

    def _leaf(self, seq: int) -> bytes:
        """Return the leaf hash of an entry, as the writer's connection sees it; empty if there is none."""
        row = self._database.execute(
            "SELECT first, leaf_hashes FROM entry WHERE first <= ? ORDER BY first DESC LIMIT 1", (seq,)
        ).fetchone()
        return b"" if row is None else bytes(row[1][32 * (seq - row[0]) : 32 * (seq - row[0] + 1)])

    @property
    def _vault(self) -> SqlVault:
        return SqlVault(self._database, self._overwrite)

    def _overwrite(self, intent: int, at: int, octets: int) -> None:
        self._database.execute(
            "UPDATE vault SET slots = overlay(slots PLACING ?2 FROM CAST(?3 AS INTEGER)) WHERE intent = ?1",
            (intent, bytes(octets), at + 1),
        )

    def _begin(self) -> tuple[int, int]:
        self._database.ensure()
        try:
            self._database.execute("BEGIN")
        except psycopg.OperationalError:
            # The server restarted while nothing was under way here.
            self._database.ensure()
            self._database.execute("BEGIN")
        row = self._database.execute("SELECT size, serial_time FROM head FOR UPDATE").fetchone()
        if row is None:
            raise StationFault(
                "ledger.failed",
                "the table head is empty",
                hint="Restore the database; the log tiles tell what it must contain.",
            )
        return row[0], row[1]

    def _commit(self) -> None:
        try:
            said = self._database.execute("COMMIT").statusmessage
        except psycopg.OperationalError as problem:
            raise Unavailable(
                "ledger.commit.unknown",
                "the connection broke during a commit: it is kept as a whole or not at all",
                hint="Try again with the same attempt or the same command; it finds out what is on record.",
            ) from problem
        if said != "COMMIT":
            raise StationFault(
                "ledger.failed",
                "the database gave up a transaction",
                hint="Look into the log of the database server, then try again.",
            )

    def _roll_back(self, problem: BaseException) -> None:
        connection = self._database.connection
        try:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            elif connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.close()
        except psycopg.Error:
            connection.close()

    def _flush_keys(self) -> None:
        try:
            with self._local_lock():
                for path in self.keys.flush():
                    path.unlink(missing_ok=True)
        except (psycopg.Error, OSError):
            self.keys.postpone()
        except BaseException:
            self.keys.forget(0)
            raise

    @contextmanager
    def _local_lock(self) -> Iterator[None]:
        """Hold the runs of this machine: other processes of the workspace share them."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            self._directory / "runs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def exclusive(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold a named lock of the database in a session of its own; it ends with that session.

        Whoever loses the session loses the lock without hearing of it; the ledger's own laws hold all the same.
        """
        digest = hashlib.sha256(f"{self.origin}\n{name}".encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        with naming_failures():
            session = self._address.connect(lock_s=_WAIT_S)
            try:
                if wait:
                    session.execute("SELECT pg_advisory_lock(?)", (number,))
                    held = True
                else:
                    (held,) = session.execute("SELECT pg_try_advisory_lock(?)", (number,)).fetchone() or (False,)
            except BaseException:
                session.close()
                raise
        try:
            yield bool(held)
        finally:
            session.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._reading, naming_failures():
            self._reader.ensure()
            self._reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._reader.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            try:
                yield
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

    def rows(self, query: str) -> Generator[tuple[object, ...], None, None]:
        yield from self._reader.stream(query, _STREAM_ROWS)

    @property
    def backends(self) -> tuple[int, int]:
        """The process ids that serve the writing and the reading connection."""
        return self._database.connection.info.backend_pid, self._reader.connection.info.backend_pid
