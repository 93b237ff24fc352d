"""What the tables say: folds of the events, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from birthmark.model.device import DeviceState

__all__ = [
    "AttemptRecord",
    "CaRecord",
    "ChunkRecord",
    "DeviceRecord",
    "IntentRecord",
    "LogHead",
    "OrderRecord",
    "OrderTotals",
    "PreloadRecord",
    "Publication",
    "RevocationRecord",
    "TemplateRecord",
]

ChunkState = Literal["ordered", "reserved", "issued", "consigned"]


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
    """Conservation of one order: ordered = open + stock + consigned + in_progress + verified + failed + scrapped."""

    ordered: int
    open: int
    stock: int
    consigned: int
    in_progress: int
    verified: int
    failed: int
    scrapped: int


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """Up to 512 devices of an order that are reserved, signed and stored together; entry ``seq`` names them."""

    order: str
    chunk: int
    first: int
    count: int
    seq: int
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
    """A reservation: ``count`` certificates to be signed under one template.

    ``records``: count × (random 8 | SPKI SHA-256 32 | TBS SHA-256 32); a certificate serial is prefix | random.
    Where somebody else signs, ``source`` says who, ``serial_prefix`` is None, and ``records``:
    count × (SPKI SHA-256 32 | request SHA-256 32).
    """

    intent: int
    order: str
    chunk: int | None
    count: int
    state: Literal["reserved", "issued", "abandoned"]
    issued_seq: int | None
    template: str
    serial_prefix: bytes | None
    records: bytes
    source: str | None = None


@dataclass(frozen=True, slots=True)
class CaRecord:
    """A CA and its certificate (DER). Of kind ``external`` the key is not ours; ``site`` holds a delegated one's."""

    ca: str
    kind: Literal["root", "issuing", "access", "external"]
    issuer: str | None
    certificate: bytes
    seq: int
    site: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateRecord:
    """An admitted template (``body`` as in docs/formats/profile.md); ``template`` is its hash in hex."""

    template: str
    ca: str
    profile: str
    body: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class PreloadRecord:
    """A chip's identity that its vendor made. ``ca`` signed it; ``seq``: the entry that holds its certificate.

    ``device_serial`` and ``bound`` (the entry that says so) are None until it is bound.
    """

    spki_sha256: bytes
    cert_sha256: bytes
    vendor: str
    unique_id: str
    ca: str
    seq: int
    device_serial: str | None
    bound: int | None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """The first use of an attempt id. ``intent`` is set when it reserved, ``drawn`` when it drew."""

    attempt: str
    device_serial: str
    kind: Literal["reserved", "drawn"]
    seq: int


@dataclass(frozen=True, slots=True)
class RevocationRecord:
    """A revoked device certificate. ``seq``: the log entry that says so, and when."""

    cert_serial: bytes
    device_serial: str
    reason: str
    seq: int


@dataclass(frozen=True, slots=True)
class LogHead:
    """``size`` entries are durable; the last signed checkpoint covers ``published`` of them."""

    size: int
    published: int


@dataclass(frozen=True, slots=True)
class Publication:
    """The last signed head: size, Merkle frontier of that size, and the checkpoint (signed note; empty at first)."""

    size: int
    frontier: bytes
    checkpoint: bytes
