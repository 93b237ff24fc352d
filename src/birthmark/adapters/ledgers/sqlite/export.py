"""Copying any ledger into one SQLite file of the published format: for the audit, for a move, for a shelf."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors, sync_directory
from birthmark.adapters.ledgers.sql.schema import TABLES
from birthmark.adapters.ledgers.sql.store import SqlLedger
from birthmark.adapters.ledgers.sqlite.connection import create, create_schema, naming_failures
from birthmark.errors import Refused

__all__ = ["export_ledger"]

_STEP = 256
"""Rows a commit: the copy never holds more in memory."""


def export_ledger(ledger: SqlLedger, path: Path, *, progress: Callable[[int], None]) -> dict[str, int]:
    """Copy one state of ``ledger``, vault included, to a new file ``path`` (0600); return rows by table.

    Raises ``Refused("ledger.file_exists")``. Power cut: the file is there as a whole, or it is not; what is left over
    is replaced by the next try.
    """
    with naming_os_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            raise _exists(path)
        unfinished = path.with_name(f".{path.name}.new")
        for suffix in ("", "-wal", "-shm"):
            unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    with naming_failures(), ledger.snapshot(), closing(create(unfinished)) as copy:
        create_schema(copy)
        copy.execute("DELETE FROM meta")
        rows = {table: _copy(table, ledger, copy, progress) for table in TABLES}
    with naming_os_errors(path):
        try:
            os.link(unfinished, path)
        except FileExistsError:
            raise _exists(path) from None
        finally:
            unfinished.unlink()
    sync_directory(path.parent)
    return rows


def _copy(table: str, ledger: SqlLedger, copy: sqlite3.Connection, progress: Callable[[int], None]) -> int:
    count = 0
    with closing(ledger.rows(f'SELECT * FROM "{table}" ORDER BY 1, 2')) as rows:  # noqa: S608
        for step in _steps(rows):
            marks = ", ".join("?" * len(step[0]))
            copy.execute("BEGIN")
            copy.executemany(f'INSERT INTO "{table}" VALUES ({marks})', step)  # noqa: S608
            copy.execute("COMMIT")
            count += len(step)
            if table == "entry":
                progress(sum(int(str(row[1])) for row in step))
    return count


def _steps(rows: Iterator[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    while step := list(islice(rows, _STEP)):
        yield step


def _exists(path: Path) -> Refused:
    return Refused(
        "ledger.file_exists",
        f"{path} exists",
        hint="Name a file that is not there yet; a ledger is never replaced.",
        path=str(path),
    )
