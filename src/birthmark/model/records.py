"""What the tables say: folds of the events, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from birthmark.model.device import DeviceState

__all__ = ["AttemptRecord", "ChunkRecord", "DeviceRecord", "IntentRecord", "LogHead", "OrderRecord", "OrderTotals"]

ChunkState = Literal["ordered", "reserved", "issued"]


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """One order. ``quantity`` devices in ``chunks`` chunks of at most 512."""

    order: str
    product: str
    profile: str
    key_algorithm: str
    key_origin: str
    ca: str
    quantity: int
    chunks: int


@dataclass(frozen=True, slots=True)
class OrderTotals:
    """Conservation of one order: ordered = open + stock + in_progress + verified + failed + scrapped."""

    ordered: int
    open: int
    stock: int
    in_progress: int
    verified: int
    failed: int
    scrapped: int


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """Up to 512 devices of an order that are reserved, signed and stored together."""

    order: str
    chunk: int
    first: int
    device_serials: tuple[str, ...]
    state: ChunkState


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """One device. ``issued_seq`` is the log index of its certificate, ``intent`` that of the reservation.

    ``position`` is the record of this device within the intent (0-based). All three are None before issuance.
    """

    device_serial: str
    order: str
    state: DeviceState
    intent: int | None
    position: int | None
    issued_seq: int | None
    attempt: str | None


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """A reservation: ``count`` certificates to be signed under one template."""

    intent: int
    order: str
    chunk: int | None
    count: int
    state: Literal["reserved", "issued", "abandoned"]
    issued_seq: int | None
    template: str


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """The first use of an attempt id. ``intent`` is set when it reserved, ``drawn`` when it drew."""

    attempt: str
    device_serial: str
    kind: Literal["reserved", "drawn"]
    seq: int


@dataclass(frozen=True, slots=True)
class LogHead:
    """``size`` entries are durable; the last signed checkpoint covers ``published`` of them."""

    size: int
    published: int
