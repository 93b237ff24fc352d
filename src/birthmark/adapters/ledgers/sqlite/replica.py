"""The tables of a site at its authority: the same fold as at the site, over the mirrored log."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import RLock

from birthmark.adapters.durable import naming_os_errors
from birthmark.adapters.ledgers.sql.keyruns import KeyIndex
from birthmark.adapters.ledgers.sql.records import SqlRecords
from birthmark.adapters.ledgers.sqlite.batchfold import BatchFold
from birthmark.adapters.ledgers.sqlite.connection import connect, create, create_schema, naming_failures
from birthmark.adapters.ledgers.sqlite.runtable import RunTable
from birthmark.errors import BirthmarkError, Refused
from birthmark.model.device import DeviceState
from birthmark.model.events import Event, Issued, Received

__all__ = ["SqliteReplica"]

_CERTIFICATES = """
SELECT d.device_serial, x.issued_seq + coalesce(d.position, d.place)
FROM device d JOIN chunk c ON c."order" = d."order" AND c.chunk = d.chunk
JOIN certificate x ON x.intent = coalesce(d.intent, iif(d.state IS NULL, c.intent, NULL))
WHERE d.device_serial IN (SELECT value FROM json_each(?)) AND x.issued_seq IS NOT NULL"""
_PLACES = """
SELECT named.key, d.place FROM json_each(?2) named JOIN device d ON d.device_serial = named.value
JOIN certificate x ON x."order" = d."order" AND x.chunk = d.chunk WHERE x.intent = ?1 ORDER BY named.key"""
_Item = tuple[int, tuple[Event, bytes]]


class SqliteReplica:
    """Implements ``ports.SiteReplica`` in a directory of its own.

    Power cut: the tables are as of the last ``keep``. A file that is damaged or of another version is made anew: it
    is a cache.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "replica.db"
        with naming_os_errors(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._open()
        except (BirthmarkError, sqlite3.Error, TypeError):
            self._make_anew(directory)

    def _make_anew(self, directory: Path) -> None:
        with naming_os_errors(directory):
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            shutil.rmtree(directory / "runs", ignore_errors=True)
        database = create(self._path)
        with naming_failures():
            database.execute("BEGIN IMMEDIATE")
            create_schema(database)
            database.execute("INSERT INTO head VALUES (1, 0, 0, 0, x'', x'')")
            database.execute("COMMIT")
            database.close()
        self._open()

    def _open(self) -> None:
        self._database = connect(self._path)
        try:
            (size,) = self._database.execute("SELECT size FROM head").fetchone()
        except BaseException:
            self._database.close()
            raise
        self._size = int(size)
        self._keys = KeyIndex(self._database, self._path.parent / "runs", RunTable(self._database))
        self._fold = BatchFold(self._database, self._keys.claim)
        self._records = SqlRecords(self._database, RLock(), naming_failures)

    @property
    def size(self) -> int:
        return self._size

    @property
    def records(self) -> SqlRecords:
        return self._records

    def take(self, first: int, entries: Sequence[tuple[Event, bytes] | None]) -> Mapping[int, BirthmarkError]:
        if first != self._size:
            raise ValueError(f"entry {first} does not follow the {self._size} that were taken")
        self._fold.forget()
        items = [(number, entry) for number, entry in enumerate(entries, first) if entry is not None]
        refused: dict[int, BirthmarkError] = {}
        with naming_failures():
            if not self._database.in_transaction:
                self._database.execute("BEGIN IMMEDIATE")
                self._keys.begin()
                self._fold.begin()
            # Nearly always all of them are lawful: one savepoint for all is tried before one for each.
            if self._try(items) is not None:
                for _, group in groupby(items, _intent_of):
                    self._take_group(list(group), refused)
            self._size = first + len(entries)
            self._database.execute("UPDATE head SET size = ?", (self._size,))
        return refused

    def _take_group(self, group: list[_Item], refused: dict[int, BirthmarkError]) -> None:
        event = group[0][1][0]
        try:
            bulk = isinstance(event, Issued | Received) and self._is_bulk(event.intent)
        except OverflowError:
            bulk = False
        for part in [group] if bulk else [[item] for item in group]:
            if (problem := self._try(part)) is not None:
                refused.update({number: problem for number, _ in part})

    def _try(self, items: list[_Item]) -> BirthmarkError | None:
        """Fold entries within a savepoint; return why not if one is refused, and then none of them counts."""
        self._database.execute("SAVEPOINT part")
        try:
            self._fold_all(items)
            self._fold.write()
        except (Refused, ValueError, OverflowError, sqlite3.IntegrityError) as problem:
            self._database.execute("ROLLBACK TO part")
            self._database.execute("RELEASE part")
            self._keys.forget(items[0][0])
            self._fold.forget()
            return problem if isinstance(problem, BirthmarkError) else _unreadable(problem)
        self._database.execute("RELEASE part")
        return None

    def _fold_all(self, items: list[_Item]) -> None:
        marks = self._fold.of_one_device((number, event) for number, (event, _) in items)
        for alone, marked in groupby(zip(marks, items, strict=True), itemgetter(0)):
            run = [item for _, item in marked]
            if alone:
                self._fold.load({event.device for _, (event, _) in run})  # type: ignore[union-attr]
                for number, (event, attachment) in run:
                    self._fold.apply(event, attachment, number)
                continue
            self._fold.write()
            self._fold.forget()
            for _, group in groupby(run, _intent_of):
                self._apply(list(group))

    def _apply(self, group: list[_Item]) -> None:
        number, (event, _) = group[0]
        if isinstance(event, Issued | Received) and self._is_bulk(event.intent):
            named = [item.device for _, (item, _) in group if isinstance(item, Issued | Received)]
            self._require_places(event.intent, named)
            self._fold.issued_chunk(event.intent, count=len(group), first=number)
            return
        for seq, (one, attached) in group:
            self._fold.apply(one, attached, seq)

    def _is_bulk(self, intent: int) -> bool:
        row = self._database.execute("SELECT chunk FROM certificate WHERE intent = ?", (intent,)).fetchone()
        return row is not None and row[0] is not None

    def _require_places(self, intent: int, devices: list[str]) -> None:
        """Refuse certificates that do not stand in the order of the devices of their chunk."""
        rows = self._database.execute(_PLACES, (intent, json.dumps(devices))).fetchall()
        if rows != [(place, place) for place in range(len(devices))]:
            raise Refused(
                "ledger.intent",
                f"{len(devices)} certificates of intent {intent} are not those of its chunk",
                hint="The certificates of a chunk stand one after another, in the order of its devices.",
                intent=intent,
            )

    def places(self, device_serials: Iterable[str]) -> Mapping[str, tuple[str, DeviceState]]:
        return {serial: (held.order, held.state) for serial, held in self._fold.look(device_serials)}

    def certificate_entries(self, device_serials: Iterable[str]) -> Mapping[str, int]:
        return dict(self._database.execute(_CERTIFICATES, (json.dumps(list(device_serials)),)))

    def keep(self) -> None:
        with naming_failures():
            if not self._database.in_transaction:
                return
            obsolete = self._keys.flush() if self._keys.due() else []
            self._database.execute("COMMIT")
        for path in obsolete:
            path.unlink(missing_ok=True)

    def start_over(self) -> None:
        self._database.close()
        self._make_anew(self._path.parent)

    def close(self) -> None:
        self._database.close()


def _intent_of(item: _Item) -> tuple[int, int]:
    """Certificates of one intent belong together; every other entry stands for itself."""
    number, (event, _) = item
    return (event.intent, -1) if isinstance(event, Issued | Received) else (-1, number)


def _unreadable(problem: Exception) -> Refused:
    return Refused(
        "ledger.records",
        f"an event holds a number or text that no ledger takes: {problem}",
        hint="Look at the entry; the program that wrote it was not ours.",
    )
