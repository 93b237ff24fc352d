"""A real PostgreSQL server of our own: a Unix socket only, fsync on, one a test session, a schema a test."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from birthmark.adapters.ledgers.postgres import PostgresLedger
from birthmark.adapters.ledgers.postgres.store import PostgresAddress
from birthmark.model import events as e
from support.ledger import AT, ORIGIN, SITE_PREFIX, TestClock

__all__ = ["PostgresServer", "create_postgres", "open_postgres"]

_numbers = itertools.count()


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "PostgreSQL is not installed: apt-get install postgresql"
    return found[-1].parent


class PostgresServer:
    """``start`` makes and starts it; ``conninfo`` leads to a new, empty schema."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="birthmark-pg-"))
        self._bin = _binaries()
        # The server refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self.directory, self.user, self.user)
        self._run("initdb", "-D", "data", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions")

    def _run(self, program: str, *arguments: str) -> None:
        with (self.directory / "log").open("ab") as log:
            subprocess.run(
                [str(self._bin / program), *arguments],
                cwd=self.directory, user=self.user if os.geteuid() == 0 else None,
                group=self.user if os.geteuid() == 0 else None, extra_groups=[] if os.geteuid() == 0 else None,
                stdout=log, stderr=log, check=True,
            )  # fmt: skip

    def start(self, *settings: str) -> None:
        """Start the server and wait until it answers."""
        options = ["listen_addresses=", f"unix_socket_directories={self.directory}", "max_connections=60", *settings]
        self._run("pg_ctl", "-D", "data", "-w", "-o", " ".join(f"-c {option}" for option in options), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; ``immediate`` is as a power cut: nothing is written any more."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    @property
    def root(self) -> str:
        return f"host={self.directory} user={self.user} dbname=postgres"

    def query(self, query: str) -> list[tuple[object, ...]]:
        """Ask it; a server that is just recovering from what a test did to it is asked again."""
        end = time.monotonic() + 30
        while True:
            try:
                with psycopg.connect(self.root, autocommit=True) as connection:
                    cursor = connection.execute(query)  # type: ignore[call-overload]
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def conninfo(self) -> str:
        schema = f"test_{next(_numbers)}"
        self.query(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        return f"{self.root} options=-csearch_path={schema}"

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.directory)


def create_postgres(conninfo: str, directory: Path, clock: TestClock, **settings: float) -> PostgresLedger:
    """Return a new ledger with its first entry."""
    first = e.WorkspaceCreated(
        at=AT, workspace="test", origin=ORIGIN, site_prefix=SITE_PREFIX.hex(), software="0.1.0", by="tester"
    )
    return PostgresLedger.create(PostgresAddress(conninfo, **settings), directory=directory, first=first, clock=clock)


def open_postgres(conninfo: str, directory: Path, clock: TestClock, **settings: float) -> PostgresLedger:
    """Return one more connection to a ledger."""
    return PostgresLedger(PostgresAddress(conninfo, **settings), directory=directory, clock=clock)
