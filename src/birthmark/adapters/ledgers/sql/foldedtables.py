"""What every fold needs of the tables: devices, attempts, rows that stand once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from birthmark.adapters.ledgers.sql.database import Database
from birthmark.adapters.ledgers.sql.records import DEVICE_QUERY
from birthmark.errors import Refused
from birthmark.model.device import DeviceState

__all__ = [
    "ADD_ATTEMPT",
    "SETTLE_HINT",
    "ClaimKeys",
    "FoldedDevice",
    "FoldedTables",
    "attempt_reused",
    "folded_device",
    "octets_of",
]

ADD_ATTEMPT = "INSERT INTO attempt VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
SETTLE_HINT = "Another process was first, or an intent is open: run `birthmark order make`, it settles open intents."


ClaimKeys = Callable[[Sequence[bytes], int], bytes | None]
"""Takes SPKI hashes for an entry; returns one that is taken already, and then takes none."""


def octets_of(text: str, count: int) -> bytes | None:
    """Return ``count`` octets written in lower-case hex, None for anything else."""
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        return None
    return octets if len(octets) == count and octets.hex() == text else None


_ROWS_A_STATEMENT = 64
"""Rows of one INSERT: it costs half of as many statements, and its text is the same for every chunk."""


@cache
def _insert_devices(rows: int) -> str:
    """Return the statement that inserts so many devices: order, chunk, place of the first, then their serials."""
    values = ", ".join(f"(?{4 + row}, ?1, ?2, ?3 + {row}, NULL, NULL, NULL, NULL)" for row in range(rows))
    return f"INSERT INTO device VALUES {values} ON CONFLICT DO NOTHING"  # noqa: S608


@dataclass(frozen=True, slots=True)
class FoldedDevice:
    """A device as the tables have it inside the transaction."""

    order: str
    state: DeviceState
    intent: int | None
    position: int | None
    attempt: str | None
    key_origin: str
    chunk_open: bool
    """Its chunk still speaks for it, and is not issued."""


def folded_device(row: Sequence[Any]) -> FoldedDevice:
    """Return a row of ``DEVICES_QUERY``."""
    _, order, state, intent, position, attempt, key_origin, chunk_open = row
    return FoldedDevice(order, DeviceState(state), intent, position, attempt, key_origin, bool(chunk_open))


def attempt_reused(attempt: str, device_serial: str) -> Refused:
    """Return the refusal of an attempt id that is on record already."""
    return Refused(
        "attempt.reused",
        f"attempt {attempt} was already used",
        hint="Make a new attempt id for every device and every new try.",
        attempt=attempt,
        device_serial=device_serial,
    )


class FoldedTables:
    """The tables of one connection, inside the caller's transaction."""

    def __init__(self, database: Database, claim_keys: ClaimKeys) -> None:
        self._database = database
        self._claim_keys = claim_keys

    def _require_new_keys(self, hashes: Sequence[bytes], seq: int, device_serial: str | None) -> None:
        if (known := self._claim_keys(hashes, seq)) is not None:
            raise Refused(
                "key.reused",
                "this key already belongs to an identity",
                hint="Every device needs a key of its own: find out why two devices have the same one.",
                spki_sha256=known.hex(),
                device_serial=device_serial,
            )

    def _device(self, device_serial: str) -> FoldedDevice:
        row = self._database.execute(DEVICE_QUERY, (device_serial,)).fetchone()
        if row is None:
            raise Refused(
                "device.unknown",
                f"no order contains device {device_serial}",
                hint="Check the scanned serial; if it is right, add it with `birthmark order create`.",
                device_serial=device_serial,
            )
        return folded_device(row)

    def _add_devices(self, order: str, chunk: int, device_serials: Sequence[str]) -> int:
        """Insert the devices of a chunk, those that are on record already left out; return how many are new."""
        new = 0
        for first in range(0, len(device_serials), _ROWS_A_STATEMENT):
            part = device_serials[first : first + _ROWS_A_STATEMENT]
            new += self._database.execute(_insert_devices(len(part)), (order, chunk, first, *part)).rowcount
        return new

    def _set_device(
        self, device_serial: str, state: DeviceState, *, intent: int | None, position: int | None, attempt: str | None
    ) -> None:
        self._database.execute(
            "UPDATE device SET state = ?, intent = ?, position = ?, attempt = ? WHERE device_serial = ?",
            (str(state), intent, position, attempt, device_serial),
        )

    def _use_attempt(self, attempt: str, device_serial: str, kind: str, seq: int) -> None:
        if not self._add("attempt", (attempt, device_serial, kind, seq)):
            raise attempt_reused(attempt, device_serial)

    def _add(self, table: str, row: tuple[object, ...]) -> bool:
        """Insert a row; tell whether it is new."""
        marks = ", ".join("?" * len(row))
        query = f'INSERT INTO "{table}" VALUES ({marks}) ON CONFLICT DO NOTHING'  # noqa: S608
        return self._database.execute(query, row).rowcount == 1

    def _insert_new(self, table: str, row: tuple[object, ...], name: str) -> None:
        if not self._add(table, row):
            raise Refused(
                "ledger.exists",
                f"{table} {name} is already on record",
                hint="Choose another name; what is on record is never replaced.",
                table=table,
                name=name,
            )
