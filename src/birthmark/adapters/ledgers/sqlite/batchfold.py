"""The fold of a replica: the devices of a batch of entries are read together, and written together.

What is lawful is decided by the same code as everywhere; only where a device's row waits until it is written differs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from birthmark.adapters.ledgers.sql.fold import Fold
from birthmark.adapters.ledgers.sql.foldedtables import (
    ADD_ATTEMPT,
    ClaimKeys,
    FoldedDevice,
    attempt_reused,
    folded_device,
)
from birthmark.adapters.ledgers.sql.records import DEVICES_QUERY
from birthmark.model.device import DeviceState
from birthmark.model.events import (
    Admitted,
    Drawn,
    Event,
    Failed,
    Installed,
    Issued,
    KeyErased,
    Received,
    Rejected,
    Requested,
    Reserved,
    Revoked,
    Scrapped,
    Superseded,
    Verified,
)

__all__ = ["BatchFold"]

_OF_ONE_DEVICE = (Drawn, Installed, Verified, Admitted, KeyErased, Failed, Rejected, Superseded, Scrapped, Revoked)
_THESE_DEVICES = DEVICES_QUERY + "WHERE d.device_serial IN (SELECT value FROM json_each(?))"  # noqa: S608
_WRITE_DEVICE = "UPDATE device SET state = ?, intent = ?, position = ?, attempt = ? WHERE device_serial = ?"


class BatchFold(Fold):
    """Holds devices between ``load`` and ``forget``; what changed of them is in the tables after ``write``.

    An entry that is not ``of_one_device`` reads and writes the tables themselves: ``write`` and ``forget`` go before.
    Whoever rolls the tables back forgets, too.
    """

    def __init__(self, database: sqlite3.Connection, claim_keys: ClaimKeys) -> None:
        super().__init__(database, claim_keys)
        self._held: dict[str, FoldedDevice] = {}
        self._changed: set[str] = set()
        self._attempts: dict[str, tuple[str, str, str, int]] = {}
        self._assigned_to: dict[str, tuple[str, str] | None] = {}

    def of_one_device(self, entries: Iterable[tuple[int, Event]]) -> list[bool]:
        """Say of each entry whether it reads and changes the row of the device that it names, and no other device's."""
        alone: set[int] = set()
        marks = []
        for number, event in entries:
            mark = isinstance(event, _OF_ONE_DEVICE)
            if isinstance(event, Reserved | Requested):
                mark = event.device is not None
                if mark:
                    alone.add(number)
            elif isinstance(event, Issued | Received):
                mark = event.intent in alone
            marks.append(mark)
        return marks

    def load(self, device_serials: Iterable[str | None]) -> None:
        """Read devices that are not held yet; those that are on record nowhere are found missing later."""
        missing = [serial for serial in device_serials if serial not in self._held]
        if missing:
            for row in self._database.execute(_THESE_DEVICES, (json.dumps(missing),)):
                self._held[row[0]] = folded_device(row)

    def look(self, device_serials: Iterable[str]) -> Iterator[tuple[str, FoldedDevice]]:
        """Yield the devices that are on record, as they are after what was folded."""
        wanted = list(device_serials)
        self.load(wanted)
        return ((serial, self._held[serial]) for serial in wanted if serial in self._held)

    def write(self) -> None:
        """Write what changed; ``Refused("attempt.reused")`` if one of the attempts is on record already."""
        if self._changed:
            held = [(serial, self._held[serial]) for serial in sorted(self._changed)]
            rows = [(str(one.state), one.intent, one.position, one.attempt, serial) for serial, one in held]
            self._changed = set()
            self._database.executemany(_WRITE_DEVICE, rows)
        if self._attempts:
            attempts = list(self._attempts.values())
            self._attempts = {}
            if self._database.executemany(ADD_ATTEMPT, attempts).rowcount != len(attempts):
                raise attempt_reused(*attempts[0][:2])

    def forget(self) -> None:
        """Hold nothing; what was not written never was."""
        self._held, self._changed, self._attempts, self._assigned_to = {}, set(), {}, {}

    def _device(self, device_serial: str) -> FoldedDevice:
        device = self._held.get(device_serial)
        if device is None:
            device = self._held[device_serial] = super()._device(device_serial)
        return device

    def _set_device(
        self, device_serial: str, state: DeviceState, *, intent: int | None, position: int | None, attempt: str | None
    ) -> None:
        before = self._device(device_serial)
        self._held[device_serial] = FoldedDevice(
            before.order, state, intent, position, attempt, before.key_origin, chunk_open=False
        )
        self._changed.add(device_serial)

    def _use_attempt(self, attempt: str, device_serial: str, kind: str, seq: int) -> None:
        if attempt in self._attempts:
            raise attempt_reused(attempt, device_serial)
        self._attempts[attempt] = (attempt, device_serial, kind, seq)

    def _assignment(self, order: str) -> tuple[str, str] | None:
        if order not in self._assigned_to:
            self._assigned_to[order] = super()._assignment(order)
        return self._assigned_to[order]
