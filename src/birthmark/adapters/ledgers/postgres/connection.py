"""One connection to PostgreSQL that speaks as the shared code expects, and names its failures.

The connection is in autocommit mode; transactions are begun by name. It is never made anew inside a transaction: what
was said in the old one is gone, and whoever goes on must hear that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrBinaryDumper

from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault, Tampered, Unavailable
from birthmark.model.secret import Secret

__all__ = ["PostgresDatabase", "naming_failures", "require_durable"]

_CONNECT_S = 10
_PLACEHOLDER = re.compile(r"\?(\d*)")
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""A peer that vanished without a word is noticed in half a minute (seconds; the last in milliseconds)."""


def _translated(query: str) -> str:
    """Return a query with SQLite's placeholders (``?``, ``?1``) in PostgreSQL's (``$1``)."""
    number = 0

    def mark(found: re.Match[str]) -> str:
        nonlocal number
        number += 1
        return f"${found[1] or number}"

    return _PLACEHOLDER.sub(mark, query)


class PostgresDatabase:
    """Implements ``Database``. ``conninfo``: libpq's; ``password``: from a secret reference, never in the conninfo.

    ``stall_s``: how long a session may stand still inside a transaction before the server ends it; ``lock_s``: how
    long it waits for a lock. ``reads``: the connection only reads, so a query that met a broken connection is asked
    once more.
    """

    def __init__(
        self, conninfo: str, password: Secret | None, *, stall_s: float, lock_s: float, reads: bool = False
    ) -> None:
        self._conninfo = conninfo
        self._password = password
        self._settings = {
            "idle_in_transaction_session_timeout": f"{stall_s * 1000:.0f}ms",
            "lock_timeout": f"{lock_s * 1000:.0f}ms",
            "client_encoding": "UTF8",
        }
        self._reads = reads
        self._queries: dict[str, str] = {}
        self._closed = False
        self.connection = self._connect()

    def __repr__(self) -> str:
        return "PostgresDatabase()"

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        details: dict[str, Any] = {**_KEEPALIVE, "application_name": "birthmark"}
        if self._password is not None:
            details["password"] = self._password.reveal().decode()
        connection = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=_CONNECT_S, **details)
        try:
            # All columns are bigint, text or bytea: nothing is left to be guessed from a value.
            connection.adapters.register_dumper(int, Int8BinaryDumper)
            connection.adapters.register_dumper(str, StrBinaryDumper)
            connection.cursor_factory = psycopg.RawCursor
            for name, value in self._settings.items():
                connection.execute("SELECT set_config($1, $2, false)", (name, value))
            require_durable(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def ensure(self) -> None:
        """Make the connection anew if it broke; only between transactions."""
        if self.connection.closed and not self._closed:
            self.connection = self._connect()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, also a failed one; a broken connection has none."""
        return self.connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def execute(self, query: str, values: Sequence[Any] = (), /) -> psycopg.RawCursor[tuple[Any, ...]]:
        if self._reads and not self.in_transaction:
            self.ensure()
            try:
                return self._execute(query, values)
            except psycopg.OperationalError:
                if not self.connection.closed:
                    raise
                self.ensure()
        return self._execute(query, values)

    def _execute(self, query: str, values: Sequence[Any]) -> psycopg.RawCursor[tuple[Any, ...]]:
        cursor = psycopg.RawCursor(self.connection)
        cursor.execute(self._query(query), values, binary=True)
        return cursor

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> psycopg.RawCursor[tuple[Any, ...]]:
        cursor = psycopg.RawCursor(self.connection)
        cursor.executemany(self._query(query), rows)
        return cursor

    def stream(self, query: str, step: int) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query of the open transaction, ``step`` at a time."""
        with psycopg.RawServerCursor(self.connection, "stream") as cursor:
            cursor.itersize = step
            cursor.execute(self._query(query), binary=True)
            yield from cursor

    def _query(self, query: str) -> str:
        found = self._queries.get(query)
        if found is None:
            found = self._queries[query] = _translated(query)
        return found

    def close(self) -> None:
        self._closed = True
        self.connection.close()


def require_durable(connection: psycopg.Connection[Any]) -> None:
    """Refuse a server that acknowledges commits before they are on disk: ``StationFault("ledger.not_durable")``."""
    wrong = {}
    for name, bad in (("synchronous_commit", "off"), ("fsync", "off"), ("full_page_writes", "off")):
        row = connection.execute("SELECT current_setting($1)", (name,)).fetchone()
        if row is None or row[0] == bad:
            wrong[name] = bad
    if wrong:
        found = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise StationFault(
            "ledger.not_durable",
            f"the database server runs with {found}",
            hint="Switch them on for this database: an acknowledged identity must survive a power cut.",
            **wrong,
        )


_CAUSES: tuple[tuple[str, type[BirthmarkError], str, str], ...] = (
    (
        "53100",
        StationFault,
        "ledger.full",
        "Free disk space on the database server; nothing of the last step was kept.",
    ),
    ("25006", StationFault, "ledger.read_only", "Name the primary server: this one is a standby or set to read only."),
    ("55P03", Unavailable, "ledger.busy", "Another process writes; try again."),
    ("40", Unavailable, "ledger.busy", "Another process writes; try again."),
    ("28", Misconfigured, "ledger.login", "Check the user, ~/.pgpass or the `password` reference in [ledger]."),
    ("3D", Misconfigured, "ledger.missing", "Create the database, or correct `url` in [ledger]."),
    ("3F", Misconfigured, "ledger.missing", "Create the schema, or correct `url` in [ledger]."),
    ("42501", Misconfigured, "ledger.login", "Give this user the rights on the tables of the ledger."),
    ("42", Misconfigured, "ledger.format", "Use the program version that wrote it, or name another workspace."),
    ("22", Refused, "log.entry.text", "An argument holds what the database cannot keep, such as a NUL octet."),
    ("58", StationFault, "ledger.io", "Check the disk of the database server; nothing of the last step was kept."),
    ("XX", Tampered, "ledger.corrupt", "Restore the database; the log tiles tell what it must contain."),
    ("53", Unavailable, "ledger.unreachable", "The database server is overloaded; try again."),
    ("57", Unavailable, "ledger.unreachable", "The database server does not answer; try again with the same attempt."),
    ("08", Unavailable, "ledger.unreachable", "The database server does not answer; try again with the same attempt."),
    ("25P03", Unavailable, "ledger.stalled", "This process stood still while it held the ledger; try again."),
)
"""By the beginning of SQLSTATE (PostgreSQL, appendix A)."""


@contextmanager
def naming_failures() -> Iterator[None]:
    """Turn ``psycopg`` failures into errors that say who must act."""
    try:
        yield
    except psycopg.Error as problem:
        raise _named(problem) from problem


def _named(problem: psycopg.Error) -> BirthmarkError:
    state = problem.sqlstate or _state_of(problem)
    matching = [cause for cause in _CAUSES if state.startswith(cause[0])]
    text = problem.diag.message_primary or str(problem).strip().partition("\n")[0]
    if not matching:
        hint = "Check the database server and its log, then start again."
        return StationFault("ledger.failed", f"the ledger failed: {text}", hint=hint, sqlstate=state)
    _, family, code, hint = max(matching, key=lambda cause: len(cause[0]))
    return family(code, f"the ledger failed: {text}", hint=hint, sqlstate=state)


def _state_of(problem: psycopg.Error) -> str:
    """Return the SQLSTATE of what the client library found by itself."""
    if isinstance(problem, psycopg.DataError):
        return "22000"
    text = str(problem)
    if "authentication" in text or "no password" in text:
        return "28000"
    if "does not exist" in text and "database" in text:
        return "3D000"
    return "08000" if isinstance(problem, psycopg.OperationalError) else ""
