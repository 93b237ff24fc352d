"""The book of one cloud as a SQLite file: which devices it was told of, and which it is to be told of yet.

Every method that changes something is one transaction that is on disk when it returns (WAL, ``synchronous=FULL``).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import BirthmarkError, Misconfigured, StationFault, Tampered, Unavailable
from birthmark.ports import BookState, DueDevice, KnownDevice, ParkedDevice, Settlement, ToldDevice
from birthmark.wire.registry import LogCursor, parse_cursor

__all__ = ["SqliteRegisterBook", "look_up"]

_FORMAT = "birthmark-register/1"
_STATES: tuple[BookState, ...] = ("due", "asked", "settled", "parked")
_DUE, _ASKED, _SETTLED, _PARKED = range(4)
_BUSY_TIMEOUT_S = 30.0
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    # A settlement that is lost costs a call; a cursor that is kept without its devices would lose them for ever.
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -16000",
)
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE registration (
         device_serial TEXT PRIMARY KEY, revision INTEGER NOT NULL, state INTEGER NOT NULL, tries INTEGER NOT NULL,
         outcome TEXT, enabled INTEGER, record TEXT, told_seq INTEGER, logged INTEGER NOT NULL DEFAULT 1,
         code TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '', hint TEXT NOT NULL DEFAULT ''
       ) WITHOUT ROWID""",
    "CREATE INDEX registration_due ON registration (revision) WHERE state = 0",
    "CREATE INDEX registration_asked ON registration (revision) WHERE state = 1",
    "CREATE INDEX registration_parked ON registration (device_serial) WHERE state = 3",
    "CREATE INDEX registration_unlogged ON registration (device_serial) WHERE logged = 0",
    "CREATE UNIQUE INDEX registration_record ON registration (record) WHERE record IS NOT NULL",
)
_FOLD = """
INSERT INTO registration (device_serial, revision, state, tries) VALUES (?, ?, 0, 0)
ON CONFLICT (device_serial) DO UPDATE SET revision = excluded.revision, state = 0, tries = 0,
  code = '', detail = '', hint = ''
WHERE excluded.revision > registration.revision"""
_SETTLE = """
UPDATE registration SET state = ?, outcome = ?, enabled = ?, record = coalesce(?, record),
  told_seq = coalesce(?, told_seq), code = ?, detail = ?, hint = ?, logged = 0
WHERE device_serial = ? AND revision = ? AND state = 1"""
_BACK = "UPDATE registration SET state = 0 WHERE device_serial = ? AND revision = ? AND state = 1"
_TAKE = """
UPDATE registration SET state = 1, tries = tries + 1 WHERE device_serial IN (
  SELECT device_serial FROM registration WHERE state = 0 ORDER BY revision LIMIT ?)
RETURNING device_serial, revision, tries, told_seq"""
_UNLOGGED = """
SELECT device_serial, revision, enabled, outcome FROM registration WHERE logged = 0 ORDER BY device_serial LIMIT ?"""
_LOGGED = "UPDATE registration SET logged = 1 WHERE device_serial = ? AND revision = ? AND outcome = ?"
_PARKED_PAGE = """
SELECT device_serial, revision, tries, code, detail, hint FROM registration
WHERE state = 3 AND device_serial > ? ORDER BY device_serial LIMIT ?"""
_REOPEN = "UPDATE registration SET state = 0, tries = 0, code = '', detail = '', hint = ''"


class SqliteRegisterBook:
    """Implements ``ports.RegisterBook``; one process at a time, of one thread at a time.

    ``cloud``: the name of the cloud that the book is of; ``scope``: which devices it is told of. A book of another
    cloud is ``Misconfigured("register.book.cloud")``; with another scope the log is read from its start again.
    """

    def __init__(self, path: Path, *, cloud: str, scope: str) -> None:
        with naming_os_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._path = path
        with _naming_failures(path):
            self._database = sqlite3.connect(
                path, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, cached_statements=64
            )
            try:
                self._open(cloud, scope)
            except BaseException:
                self._database.close()
                raise

    def _open(self, cloud: str, scope: str) -> None:
        for pragma in _PRAGMAS:
            self._database.execute(pragma)
        (mode,) = self._database.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            raise StationFault(
                "register.book.not_durable",
                f"the book {self._path} runs with journal_mode={mode}",
                hint="Put the workspace on a local file system that supports WAL.",
                path=str(self._path),
            )
        with self._transaction():
            if self._database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone() is None:
                for statement in _SCHEMA:
                    self._database.execute(statement)
                rows = [("format", _FORMAT), ("cloud", cloud), ("scope", scope)]
                self._database.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            self._require_ours(cloud)
            if self._meta("scope") != scope:
                self._set("scope", scope)
                self._database.execute("DELETE FROM meta WHERE name = 'cursor'")

    def _require_ours(self, cloud: str) -> None:
        if self._meta("format") != _FORMAT:
            raise Misconfigured(
                "register.book.format",
                f"{self._path} is no book of the format {_FORMAT}",
                hint="Use the program version that wrote it, or move it away: the next run makes it anew from the log.",
                path=str(self._path),
            )
        if self._meta("cloud") != cloud:
            raise Misconfigured(
                "register.book.cloud",
                f"the book {self._path.name} is of {self._meta('cloud')}, not of {cloud}",
                hint="Give the other cloud a name of its own, [clouds.NAME]: this book would miss devices there.",
                path=str(self._path),
                cloud=cloud,
            )

    def _meta(self, name: str) -> str | None:
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _naming_failures(self._path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _all(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with _naming_failures(self._path):
            return self._database.execute(query, values).fetchall()

    def cursor(self) -> LogCursor | None:
        with _naming_failures(self._path):
            text = self._meta("cursor")
        return None if text is None else parse_cursor(text)

    def fold(self, entries: Mapping[str, int], cursor: LogCursor) -> int:
        with self._transaction():
            became = self._database.executemany(_FOLD, entries.items()).rowcount if entries else 0
            self._set("cursor", cursor.text())
        return max(became, 0)

    def recover(self) -> int:
        with self._transaction():
            return self._database.execute("UPDATE registration SET state = 0 WHERE state = 1").rowcount

    def turn(self, settlements: Sequence[Settlement], take: int) -> Sequence[DueDevice]:
        settled = [_settled_row(item) for item in settlements if item.outcome is not None]
        back = [(item.device.device_serial, item.device.revision) for item in settlements if item.outcome is None]
        with self._transaction():
            self._database.executemany(_SETTLE, settled)
            self._database.executemany(_BACK, back)
            rows = self._database.execute(_TAKE, (take,)).fetchall() if take else []
        return sorted((DueDevice(*row) for row in rows), key=lambda due: (due.revision, due.device_serial))

    def holders(self, keys: Sequence[str]) -> Mapping[str, str]:
        query = f"SELECT record, device_serial FROM registration WHERE record IN ({_marks(keys)})"  # noqa: S608
        return dict(self._all(query, keys))

    def known(self, device_serials: Sequence[str]) -> Mapping[str, KnownDevice]:
        query = (
            "SELECT device_serial, state, told_seq FROM registration"  # noqa: S608
            f" WHERE device_serial IN ({_marks(device_serials)})"
        )
        rows = self._all(query, device_serials)
        return {serial: KnownDevice(_STATES[state], told_seq) for serial, state, told_seq in rows}

    def counts(self) -> Mapping[BookState, int]:
        found = dict(self._all("SELECT state, count(*) FROM registration GROUP BY state"))
        return {name: found.get(number, 0) for number, name in enumerate(_STATES)}

    def parked(self, after: str, limit: int) -> Sequence[ParkedDevice]:
        return [ParkedDevice(*row) for row in self._all(_PARKED_PAGE, (after, limit))]

    def reopen(self, device_serials: Sequence[str] | None) -> int:
        with self._transaction():
            if device_serials is None:
                return self._database.execute(f"{_REOPEN} WHERE state = {_PARKED}").rowcount
            query = f"{_REOPEN} WHERE state IN ({_SETTLED}, {_PARKED}) AND device_serial = ?"
            return max(self._database.executemany(query, [(serial,) for serial in device_serials]).rowcount, 0)

    def unlogged(self, limit: int) -> Sequence[ToldDevice]:
        return [
            ToldDevice(serial, revision, "enabled" if enabled else "blocked", outcome)
            for serial, revision, enabled, outcome in self._all(_UNLOGGED, (limit,))
        ]

    def mark_logged(self, told: Sequence[ToldDevice]) -> None:
        rows = [(item.device_serial, item.revision, item.outcome) for item in told]
        with self._transaction():
            self._database.executemany(_LOGGED, rows)

    def prepared(self) -> str | None:
        with _naming_failures(self._path):
            return self._meta("prepared")

    def note_prepared(self, authorities_sha256: str) -> None:
        with self._transaction():
            self._set("prepared", authorities_sha256)

    def close(self) -> None:
        self._database.close()


def look_up(path: Path, device_serial: str) -> tuple[str, BookState, str] | None:
    """Return cloud, state and what it was told of a device, from a book that is only read; None if it is not in it."""
    if not path.is_file():
        return None
    with _naming_failures(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        (cloud,) = database.execute("SELECT value FROM meta WHERE name = 'cloud'").fetchone()
        query = "SELECT state, outcome, enabled FROM registration WHERE device_serial = ?"
        row = database.execute(query, (device_serial,)).fetchone()
    if row is None:
        return None
    state, outcome, enabled = row
    return str(cloud), _STATES[state], "" if outcome is None else f"{'enabled' if enabled else 'blocked'}, {outcome}"


def _settled_row(item: Settlement) -> tuple[object, ...]:
    state = _PARKED if item.outcome == "refused" else _SETTLED
    told = item.certificate_seq if item.standing == "enabled" and state == _SETTLED else None
    return (
        state, item.outcome, item.standing == "enabled", item.key if state == _SETTLED else None, told,
        item.code, item.detail, item.hint, item.device.device_serial, item.device.revision,
    )  # fmt: skip


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


_CAUSES: tuple[tuple[str, type[BirthmarkError], str, str], ...] = (
    ("full", StationFault, "register.book.full", "Free disk space; nothing of the last step was kept."),
    ("readonly", StationFault, "register.book.read_only", "Make the directory register/ writable for this user."),
    ("unable to open", StationFault, "register.book.read_only", "Make register/ writable for this user."),
    ("locked", Unavailable, "register.book.busy", "Another process uses this book; try again."),
    ("not a database", Tampered, "register.book.corrupt", "Move the book away; the next run makes it from the log."),
    ("malformed", Tampered, "register.book.corrupt", "Move the book away; the next run makes it from the log."),
)


@contextmanager
def _naming_failures(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as problem:
        text = str(problem).lower()
        for part, family, code, hint in _CAUSES:
            if part in text:
                raise family(code, f"{path}: {problem}", hint=hint, path=str(path)) from problem
        if isinstance(problem, sqlite3.OperationalError) or type(problem) is sqlite3.DatabaseError:
            raise StationFault(
                "register.book.failed",
                f"{path}: {problem}",
                hint="Check the disk and the file, then run the same command again.",
                path=str(path),
            ) from problem
        raise
