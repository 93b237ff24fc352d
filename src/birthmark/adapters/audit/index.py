"""What every worker must know of the whole log: the few entries that others refer to. Kept in a scratch file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

__all__ = [
    "Assignment",
    "Authority",
    "BulkIntent",
    "Chunk",
    "Consignment",
    "Index",
    "Order",
    "PreloadFile",
    "Site",
    "Station",
    "TemplateText",
    "VendorCa",
    "load_index",
]


class Authority(msgspec.Struct, frozen=True):
    """A CA certificate on record (DER)."""

    ca: str
    kind: str
    issuer: str | None
    certificate: bytes
    seq: int
    site: str | None = None


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
    source: str | None = None
    """Who signs, if not we."""


class Site(msgspec.Struct):
    """A site on record. ``stopped``, ``reported``, ``root`` and ``settled`` are those after the last entry."""

    site: str
    origin: str
    vkey: str
    site_prefix: str
    mode: str
    seq: int
    stopped: str | None = None
    reported: int = 0
    root: str = ""
    settled: int = 0


class Assignment(msgspec.Struct, frozen=True):
    """The one site that makes an order."""

    order: str
    site: str
    mode: str
    seq: int


class Consignment(msgspec.Struct, frozen=True):
    """``count`` devices of a chunk left with a bundle."""

    order: str
    chunk: int
    bundle: str
    count: int
    seq: int


class PreloadFile(msgspec.Struct, frozen=True):
    """A manifest of a vendor that was taken in."""

    manifest_sha256: str
    vendor: str
    form: str
    count: int
    chunks: int
    seq: int


class VendorCa(msgspec.Struct, frozen=True):
    """A CA whose key a vendor holds, and how much it may sign."""

    ca: str
    vendor: str
    quota: int
    seq: int


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
    role: str = "authority"
    site_prefix: str = ""
    sites: list[Site] = []
    assignments: list[Assignment] = []
    consigned: list[Consignment] = []
    preload_files: list[PreloadFile] = []
    vendor_cas: list[VendorCa] = []
    closed: list[tuple[str, int, int]] = []
    """Order, leftovers that were destroyed, entry."""
    raised: list[tuple[str, str | None, int | None]] = []
    """Site, device and entry of the site's log of every finding that the authority has on record."""
    destroyed: dict[str, int] = {}
    """CA to the entry that says its key is destroyed."""

    def save(self, path: Path) -> None:
        """Write the scratch file."""
        path.write_bytes(msgspec.msgpack.encode(self))


@lru_cache(maxsize=1)
def load_index(path: Path) -> Index:
    """Read the scratch file; a worker reads each one once."""
    return msgspec.msgpack.decode(path.read_bytes(), type=Index)
