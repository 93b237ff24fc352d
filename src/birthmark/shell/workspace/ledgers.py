"""Which ledger a workspace has: the file in its directory, or a database that several machines share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.errors import Misconfigured
from birthmark.shell.workspace.config import LedgerSettings

if TYPE_CHECKING:
    from birthmark.adapters.ledgers.postgres.store import PostgresAddress
    from birthmark.adapters.ledgers.sql.store import SqlLedger
    from birthmark.model.events import WorkspaceCreated
    from birthmark.ports import SecretsHandler

__all__ = ["create_ledger", "open_ledger", "require_ledger"]

_SCHEMES = ("postgres", "postgresql")


def open_ledger(
    root: Path, settings: LedgerSettings | None, *, secrets: SecretsHandler, clock: Callable[[], datetime]
) -> SqlLedger:
    """Open the ledger of the workspace in ``root``."""
    if settings is None:
        from birthmark.adapters.ledgers.sqlite import SqliteLedger

        return SqliteLedger(root / "ledger" / "ledger.db", clock=clock)
    address = _address(settings, secrets)
    from birthmark.adapters.ledgers.postgres import PostgresLedger

    return PostgresLedger(address, directory=root / "ledger", clock=clock)


def require_ledger(settings: LedgerSettings | None, *, secrets: SecretsHandler) -> None:
    """Find out whether the database answers, before anything is made."""
    if settings is None:
        return
    address = _address(settings, secrets)
    from birthmark.adapters.ledgers.postgres.connection import naming_failures

    with naming_failures():
        address.connect().close()


def create_ledger(
    root: Path,
    settings: LedgerSettings | None,
    *,
    first: WorkspaceCreated,
    secrets: SecretsHandler,
    clock: Callable[[], datetime],
) -> SqlLedger:
    """Make the ledger of a new workspace with its first entry; one that exists is never touched."""
    if settings is None:
        from birthmark.adapters.ledgers.sqlite import SqliteLedger

        return SqliteLedger.create(root / "ledger" / "ledger.db", first=first, clock=clock)
    address = _address(settings, secrets)
    from birthmark.adapters.ledgers.postgres import PostgresLedger

    return PostgresLedger.create(address, directory=root / "ledger", first=first, clock=clock)


def _address(settings: LedgerSettings, secrets: SecretsHandler) -> PostgresAddress:
    try:
        import psycopg

        from birthmark.adapters.ledgers.postgres.store import PostgresAddress
    except ImportError as problem:
        raise Misconfigured(
            "ledger.extra",
            "the PostgreSQL client is not installed",
            hint="Install birthmark[postgres].",
        ) from problem
    scheme, _, rest = settings.url.partition(":")
    if scheme not in _SCHEMES:
        raise Misconfigured(
            "settings.ledger.url",
            f"no ledger has the scheme {scheme[:20]!r}",
            hint="Write postgres:host=… dbname=… user=…, or leave [ledger] out for a file in this directory.",
        )
    conninfo = settings.url if rest.startswith("//") else rest
    try:
        details = psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise Misconfigured(
            "settings.ledger.url",
            "the `url` in [ledger] is not what libpq understands",
            hint="Write postgres:host=… dbname=… user=… or postgres://user@host/dbname (PostgreSQL, 34.1.1).",
        ) from None
    if "password" in details or "sslpassword" in details:
        raise Misconfigured(
            "settings.ledger.password",
            "there is a password in the `url` of [ledger]",
            hint='Take it out; name it with password = "env:NAME" or use ~/.pgpass.',
        )
    password = None if settings.password is None else secrets(settings.password)
    return PostgresAddress(conninfo, password)
