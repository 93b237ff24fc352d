"""The tables of the shared ledger: those of the embedded one in PostgreSQL's types."""

from __future__ import annotations

import psycopg

from birthmark.adapters.ledgers.postgres.connection import PostgresDatabase
from birthmark.adapters.ledgers.sql.schema import SCHEMA_FORMAT, schema_statements
from birthmark.errors import Misconfigured

__all__ = ["create_schema", "read_meta"]

_TYPES = (
    (" WITHOUT ROWID", ""),
    ("INTEGER", "BIGINT"),
    ("BLOB", "BYTEA"),
    # Text is compared octet by octet, as SQLite does and as the log is read.
    ("TEXT", 'TEXT COLLATE "C"'),
)
_UNUSED = "CREATE TABLE key_run"
"""Key runs are files of a machine; several machines share this database."""
_STORAGE = (
    # Certificates, hashes and sealed keys do not compress, and one slot is read without its neighbours.
    "ALTER TABLE entry ALTER body SET STORAGE EXTERNAL",
    "ALTER TABLE certificate ALTER records SET STORAGE EXTERNAL",
    "ALTER TABLE vault ALTER slots SET STORAGE EXTERNAL",
    # The one row that every transaction changes: its old versions find room on its own page.
    "ALTER TABLE head SET (fillfactor = 20)",
)


def create_schema(database: PostgresDatabase) -> None:
    """Create all tables in the transaction that is open."""
    for statement in schema_statements():
        if statement.startswith(_UNUSED):
            continue
        for ours, theirs in _TYPES:
            statement = statement.replace(ours, theirs)
        database.execute(statement)
    for statement in _STORAGE:
        database.execute(statement)
    database.execute("INSERT INTO meta VALUES ('format', ?)", (SCHEMA_FORMAT,))


def read_meta(database: PostgresDatabase) -> dict[str, str]:
    """Return the rows of ``meta``; ``Misconfigured("ledger.missing" | "ledger.format")`` without a ledger."""
    try:
        meta: dict[str, str] = dict(database.execute("SELECT name, value FROM meta").fetchall())
    except psycopg.errors.UndefinedTable:
        raise Misconfigured(
            "ledger.missing",
            "the database holds no ledger",
            hint="Run `birthmark init DIR --ledger URL` first, or correct `url` in [ledger].",
        ) from None
    found = meta.get("format")
    if found != SCHEMA_FORMAT or not {"origin", "site_prefix", "software"} <= meta.keys():
        raise Misconfigured(
            "ledger.format",
            f"the database is no ledger of the format {SCHEMA_FORMAT}",
            hint="Use the program version that wrote it, or name another database.",
            format=found,
        )
    return meta
