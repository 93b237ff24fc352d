"""Opening the database so that an acknowledged commit survives a power cut, and naming its failures."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors
from birthmark.adapters.ledgers.sql.schema import SCHEMA_FORMAT, schema_statements
from birthmark.errors import BirthmarkError, Misconfigured, StationFault, Tampered, Unavailable

__all__ = ["connect", "create", "create_schema", "naming_failures", "read_meta"]

_BUSY_TIMEOUT_S = 30.0
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # FULL fsyncs the WAL at every commit. NORMAL loses acknowledged rows on power loss; never lower this.
    "PRAGMA synchronous = FULL",
    "PRAGMA wal_autocheckpoint = 2000",
    "PRAGMA cache_size = -32000",
    "PRAGMA foreign_keys = OFF",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing ledger file; ``Misconfigured("ledger.missing")`` if there is none."""
    with naming_os_errors(path):
        missing = not path.is_file()
    if missing:
        raise Misconfigured(
            "ledger.missing",
            f"there is no ledger at {path}",
            hint="Run `birthmark init DIR` first, or name the workspace with --workspace.",
            path=str(path),
        )
    with naming_failures():
        database = sqlite3.connect(
            path, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, cached_statements=256
        )
        try:
            for pragma in _PRAGMAS:
                database.execute(pragma)
            (level,) = database.execute("PRAGMA synchronous").fetchone()
            (mode,) = database.execute("PRAGMA journal_mode").fetchone()
        except BaseException:
            database.close()
            raise
    if level < 2 or mode != "wal":
        database.close()
        raise StationFault(
            "ledger.not_durable",
            f"the ledger runs with journal_mode={mode}, synchronous={level}",
            hint="Put the workspace on a local file system that supports WAL.",
        )
    return database


def create(path: Path) -> sqlite3.Connection:
    """Make an empty database file that only its owner can read."""
    with naming_os_errors(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, isolation_level=None)
    for pragma in _PRAGMAS:
        database.execute(pragma)
    return database


def read_meta(database: sqlite3.Connection, path: Path) -> dict[str, str]:
    """Return the rows of ``meta``; ``Misconfigured("ledger.format")`` if the file is not a ledger of this format."""
    with naming_failures():
        known = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone()
        meta = dict(database.execute("SELECT name, value FROM meta").fetchall()) if known else {}
    found = meta.get("format")
    if found != SCHEMA_FORMAT or not {"origin", "site_prefix", "software"} <= meta.keys():
        raise Misconfigured(
            "ledger.format",
            f"{path} is no ledger of the format {SCHEMA_FORMAT}",
            hint="Use the program version that wrote it, or name another workspace.",
            path=str(path),
            format=found,
        )
    return meta


def create_schema(database: sqlite3.Connection) -> None:
    """Create all tables in the transaction that is open."""
    for statement in schema_statements():
        database.execute(statement)
    database.execute("INSERT INTO meta VALUES ('format', ?)", (SCHEMA_FORMAT,))


_CAUSES: tuple[tuple[str, type[BirthmarkError], str, str], ...] = (
    ("full", StationFault, "ledger.full", "Free disk space; nothing of the last step was kept."),
    ("readonly", StationFault, "ledger.read_only", "Make the ledger directory writable for this user."),
    ("unable to open", StationFault, "ledger.read_only", "Make the ledger directory writable for this user."),
    ("locked", Unavailable, "ledger.busy", "Another process writes; try again."),
    ("disk i/o", StationFault, "ledger.io", "Check the disk; then start again, recovery runs by itself."),
    ("no such", Misconfigured, "ledger.format", "Use the program version that wrote it, or name another workspace."),
    ("not a database", Tampered, "ledger.corrupt", "Restore the ledger; the log tiles tell what it must contain."),
    ("malformed", Tampered, "ledger.corrupt", "Restore the ledger; the log tiles tell what it must contain."),
)


@contextmanager
def naming_failures() -> Iterator[None]:
    """Turn ``sqlite3`` failures into errors that say who must act."""
    try:
        yield
    except sqlite3.Error as problem:
        text = str(problem).lower()
        for part, family, code, hint in _CAUSES:
            if part in text:
                raise _named(family, code, str(problem), hint) from problem
        if isinstance(problem, sqlite3.OperationalError) or type(problem) is sqlite3.DatabaseError:
            hint = "Check the disk and the ledger file, then start again."
            raise _named(StationFault, "ledger.failed", str(problem), hint) from problem
        raise


def _named(family: type[BirthmarkError], code: str, text: str, hint: str) -> BirthmarkError:
    return family(code, f"the ledger failed: {text}", hint=hint)
