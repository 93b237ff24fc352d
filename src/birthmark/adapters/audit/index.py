"""What every worker must know of the whole log: the few entries that others refer to. Kept in a scratch file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

__all__ = ["Authority", "BulkIntent", "Chunk", "Index", "Order", "Station", "TemplateText", "load_index"]


class Authority(msgspec.Struct, frozen=True):
    """A CA certificate on record (DER)."""

    ca: str
    kind: str
    issuer: str | None
    certificate: bytes
    seq: int


class TemplateText(msgspec.Struct, frozen=True):
    """A template on record; ``body`` is its stored form."""

    template: str
    ca: str
    profile: str
    body: bytes
    seq: int


class Order(msgspec.Struct, frozen=True):
    """An order on record; the fields are those of its event."""

    order: str
    product: str
    profile: str
    key_algorithm: str
    key_origin: str
    ca: str
    quantity: int
    chunks: int
    seq: int


class Station(msgspec.Struct, frozen=True):
    """A station and its verifier key."""

    station: str
    vkey: str
    seq: int


class Chunk(msgspec.Struct):
    """Devices ordered together. ``state`` and ``intent`` are those after the last entry."""

    order: str
    chunk: int
    first: int
    count: int
    seq: int
    state: str = "ordered"
    intent: int | None = None


class BulkIntent(msgspec.Struct):
    """A reservation for a whole chunk. ``issued`` is the entry of its first certificate, once known."""

    intent: int
    order: str
    chunk: int
    count: int
    serial_prefix: bytes
    template: str
    abandoned: int | None = None
    issued: int | None = None


class Index(msgspec.Struct):
    """All of it; ``abandoned`` is (intent, entry)."""

    origin: str = ""
    authorities: list[Authority] = []
    templates: list[TemplateText] = []
    orders: list[Order] = []
    stations: list[Station] = []
    chunks: list[Chunk] = []
    intents: list[BulkIntent] = []
    abandoned: list[tuple[int, int]] = []

    def save(self, path: Path) -> None:
        """Write the scratch file."""
        path.write_bytes(msgspec.msgpack.encode(self))


@lru_cache(maxsize=1)
def load_index(path: Path) -> Index:
    """Read the scratch file; a worker reads each one once."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Index)
