"""The NVS partition of ESP-IDF, version 2: pages of 126 entries of 32 octets, and a reader that takes only that.

Format: ESP-IDF programming guide, "Non-Volatile Storage Library". All integers are little-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct, pack
from typing import Literal

from birthmark.adapters.targets.esp.nvskeys import NvsKeys
from birthmark.errors import DeviceFault, Refused

__all__ = ["NVS_MARKS", "PAGE_OCTETS", "NvsItem", "decode_nvs", "encode_nvs"]

PAGE_OCTETS = 4096

_ENTRY = 32
_FIRST_ENTRY = 64
_ENTRIES = 126
_LONGEST_STRING = 3968
_LONGEST_KEY = 15
_ACTIVE, _FULL = 0xFFFFFFFE, 0xFFFFFFFC
NVS_MARKS = (pack("<I", _ACTIVE), pack("<I", _FULL))
"""How a partition that is in use begins."""

_VERSION_2 = 0xFE
_ANY_CHUNK = 0xFF
_INTEGERS = {"u8": (0x01, Struct("<B")), "u16": (0x02, Struct("<H")), "u32": (0x04, Struct("<I"))}
_STRING, _BLOB_DATA, _BLOB_INDEX = 0x21, 0x42, 0x48
_ERASED = b"\xff"

Kind = Literal["u8", "u16", "u32", "string", "blob"]


@dataclass(frozen=True, slots=True)
class NvsItem:
    """A value under a key (1 to 15 octets). ``value``: an integer, or the octets of a string (no NUL) or blob."""

    key: str
    kind: Kind
    value: int | bytes


def encode_nvs(namespace: str, items: Sequence[NvsItem], size: int, keys: NvsKeys | None = None) -> bytes:
    """Return a whole partition of ``size`` octets (a multiple of 4,096, at least 12,288) with one namespace.

    The last page stays erased: the library on the device moves values through it. With ``keys`` every entry is
    encrypted. ``Refused("target.partition.full")`` if the items do not fit.
    """
    writer = _Writer(size, keys)
    writer.integer(0, NvsItem(namespace, "u8", 1))
    for item in items:
        if isinstance(item.value, int):
            writer.integer(1, item)
        elif item.kind == "string":
            writer.string(1, item.key, item.value + b"\0")
        else:
            writer.blob(1, item.key, item.value)
    return writer.partition()


def decode_nvs(namespace: str, partition: bytes, keys: NvsKeys | None = None) -> tuple[NvsItem, ...]:
    """Return the items in their order; none of an erased partition.

    ``DeviceFault("target.partition.damaged")`` unless the partition is, octet for octet, what ``encode_nvs`` writes.
    """
    if not partition.strip(_ERASED):
        return ()
    try:
        items = _read(partition, keys)
        if items[:1] == [NvsItem(namespace, "u8", 1)] and encode_nvs(
            namespace, items[1:], len(partition), keys
        ) == bytes(partition):
            return tuple(items[1:])
    except (ValueError, IndexError, Refused):
        pass
    raise DeviceFault(
        "target.partition.damaged",
        "the NVS partition does not hold exactly what was written into it",
        hint="Provision the device again as rework, with a new identity.",
    )


class _Writer:
    """Fills pages in the order in which ESP-IDF's own generator does."""

    def __init__(self, size: int, keys: NvsKeys | None) -> None:
        self._size = size
        self._keys = keys
        self._pages: list[bytearray] = []
        self._used = 0
        self._new_page()

    def integer(self, namespace: int, item: NvsItem) -> None:
        code, form = _INTEGERS[item.kind]
        if self._used >= _ENTRIES:
            self._new_page()
        self._head(namespace, code, 1, _ANY_CHUNK, item.key, form.pack(item.value))

    def string(self, namespace: int, key: str, data: bytes) -> None:
        span = 1 + _entries(data)
        if len(data) > _LONGEST_STRING:
            raise _full(len(data), _LONGEST_STRING)
        if self._used + span >= _ENTRIES:
            self._new_page()
        self._head(namespace, _STRING, span, _ANY_CHUNK, key, _sized(data))
        self._data(data)

    def blob(self, namespace: int, key: str, data: bytes) -> None:
        if self._used >= _ENTRIES:
            self._new_page()
        chunks, place = 0, 0
        while True:
            room = (_ENTRIES - self._used - 1) * _ENTRY
            chunk = data[place : place + room]
            self._head(namespace, _BLOB_DATA, 1 + _entries(chunk), chunks, key, _sized(chunk))
            self._data(chunk)
            chunks, place = chunks + 1, place + len(chunk)
            if place < len(data) or room - len(chunk) < _ENTRY:
                self._new_page()
            if place == len(data):
                break
        self._head(namespace, _BLOB_INDEX, 1, _ANY_CHUNK, key, pack("<IBB", len(data), chunks, 0))

    def partition(self) -> bytes:
        return b"".join(self._pages).ljust(self._size, _ERASED)

    def _head(self, namespace: int, code: int, span: int, chunk: int, key: str, value: bytes) -> None:
        name = key.encode()
        if not 0 < len(name) <= _LONGEST_KEY:
            raise ValueError("length of an NVS key")
        start = bytes((namespace, code, span, chunk))
        rest = name.ljust(16, b"\0") + value.ljust(8, _ERASED)
        self._put(start + pack("<I", _crc(start + rest)) + rest)

    def _data(self, data: bytes) -> None:
        for place in range(0, len(data), _ENTRY):
            self._put(data[place : place + _ENTRY].ljust(_ENTRY, _ERASED))

    def _put(self, entry: bytes) -> None:
        page = self._pages[-1]
        place = _FIRST_ENTRY + self._used * _ENTRY
        if self._keys is not None:
            entry = self._keys.encrypt(entry, (len(self._pages) - 1) * PAGE_OCTETS + place)
        page[place : place + _ENTRY] = entry
        page[32 + self._used // 4] &= ~(1 << 2 * (self._used % 4)) & 0xFF
        self._used += 1

    def _new_page(self) -> None:
        number = len(self._pages)
        if (number + 2) * PAGE_OCTETS > self._size:
            raise _full((number + 2) * PAGE_OCTETS, self._size)
        if self._pages:
            self._pages[-1][:4] = pack("<I", _FULL)
        covered = pack("<IB", number, _VERSION_2).ljust(24, _ERASED)
        head = pack("<I", _ACTIVE) + covered + pack("<I", _crc(covered))
        self._pages.append(bytearray(head.ljust(PAGE_OCTETS, _ERASED)))
        self._used = 0


def _read(partition: bytes, keys: NvsKeys | None) -> list[NvsItem]:
    """Return what the entries say, the namespace first. Whether they are sound is for the caller to find out."""
    items: list[NvsItem] = []
    chunks = b""
    for page in range(0, len(partition) - PAGE_OCTETS, PAGE_OCTETS):
        entries = _entries_of(partition, page, keys)
        place = 0
        while place < len(entries):
            entry = entries[place]
            code, span, key = entry[1], max(1, entry[2]), entry[8:24].rstrip(b"\0").decode("ascii")
            data = b"".join(entries[place + 1 : place + span])[: int.from_bytes(entry[24:26], "little")]
            if code == _STRING:
                items.append(NvsItem(key, "string", data[:-1]))
            elif code == _BLOB_DATA:
                chunks += data
            elif code == _BLOB_INDEX:
                items.append(NvsItem(key, "blob", chunks))
                chunks = b""
            else:
                items.append(_integer(key, code, entry[24:]))
            place += span
    return items


def _entries_of(partition: bytes, page: int, keys: NvsKeys | None) -> list[bytes]:
    found = []
    for number in range(_ENTRIES):
        if partition[page + 32 + number // 4] >> 2 * (number % 4) & 3 != 2:
            break
        place = page + _FIRST_ENTRY + number * _ENTRY
        entry = partition[place : place + _ENTRY]
        found.append(entry if keys is None else keys.decrypt(entry, place))
    return found


def _integer(key: str, code: int, value: bytes) -> NvsItem:
    for kind, (known, form) in _INTEGERS.items():
        if code == known:
            return NvsItem(key, kind, form.unpack_from(value)[0])  # type: ignore[arg-type]
    raise ValueError("kind of an NVS entry")


def _entries(data: bytes) -> int:
    return -(-len(data) // _ENTRY)


def _sized(data: bytes) -> bytes:
    return pack("<HHI", len(data), 0xFFFF, _crc(data))


def _crc(octets: bytes) -> int:
    return zlib.crc32(octets, 0xFFFFFFFF)


def _full(needed: int, size: int) -> Refused:
    return Refused(
        "target.partition.full",
        f"{needed} octets do not fit into {size}",
        hint="Use a larger size=, chain=issuing or a smaller key; one string has at most 3,967 octets.",
        needed=needed,
        size=size,
    )
