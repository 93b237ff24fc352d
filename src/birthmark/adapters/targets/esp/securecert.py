"""The ``esp_secure_cert`` partition: a row of TLV entries, each with a CRC, ended by a digest of all of them.

Format: Espressif, esp_secure_cert_mgr, ``docs/format.md``. All integers are little-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct

from birthmark.errors import DeviceFault, Refused

__all__ = [
    "CA_CERTIFICATE",
    "DEVICE_CERTIFICATE",
    "DS_CONTEXT",
    "DS_DATA",
    "KEY_IN_FUSES",
    "PARTITION_OCTETS",
    "PRIVATE_KEY",
    "SECURE_CERT_MARKS",
    "SECURITY_CONFIGURATION",
    "Tlv",
    "decode_secure_cert",
    "encode_secure_cert",
]

PARTITION_OCTETS = 0x2000
"""Size of the partition, and of what is written: the unused rest is erased (0xFF) with it."""

CA_CERTIFICATE = 0
DEVICE_CERTIFICATE = 1
PRIVATE_KEY = 2
DS_DATA = 3
DS_CONTEXT = 4
SECURITY_CONFIGURATION = 6

KEY_IN_FUSES = 0x08
"""Flags of a private key that the ECDSA peripheral takes from the fuses."""

_INTEGRITY = 9
_MAGIC = 0xBA5EBA11
SECURE_CERT_MARKS = (_MAGIC.to_bytes(4, "little"),)
"""How a partition that is in use begins."""

_HEADER = Struct("<IB3xBBH")
_CRC = Struct("<I")
_ALIGNMENT = 16
_ERASED = b"\xff"


@dataclass(frozen=True, slots=True)
class Tlv:
    """One entry. ``kind`` and ``subtype``: 0 to 255; ``flags`` says how a private key is kept (0: as it is)."""

    kind: int
    data: bytes
    subtype: int = 0
    flags: int = 0


def encode_secure_cert(entries: Iterable[Tlv]) -> bytes:
    """Return a whole partition; ``Refused("target.partition.full")`` if the entries do not fit."""
    body = b"".join(_encode(entry) for entry in entries)
    body += _encode(Tlv(_INTEGRITY, sha256(body).digest()))
    if len(body) > PARTITION_OCTETS:
        raise Refused(
            "target.partition.full",
            f"key and certificates need {len(body)} octets, the partition has {PARTITION_OCTETS}",
            hint="Use encoding=der or chain=issuing, or a smaller key.",
            needed=len(body),
            size=PARTITION_OCTETS,
        )
    return body.ljust(PARTITION_OCTETS, _ERASED)


def decode_secure_cert(partition: bytes) -> tuple[Tlv, ...]:
    """Return the entries, without the digest; none of an erased partition.

    ``DeviceFault("target.partition.damaged")`` unless every CRC and the digest fit and nothing follows.
    """
    entries: list[Tlv] = []
    place = 0
    while place + _HEADER.size <= len(partition) and partition[place : place + 4] != _ERASED * 4:
        entry, end = _decode(partition, place)
        if entry.kind == _INTEGRITY:
            if entry != Tlv(_INTEGRITY, sha256(partition[:place]).digest()) or partition[end:].strip(_ERASED):
                raise _damaged("its digest does not fit")
            return tuple(entries)
        entries.append(entry)
        place = end
    if entries or partition.strip(_ERASED):
        raise _damaged("its end is missing")
    return ()


def _encode(entry: Tlv) -> bytes:
    head = _HEADER.pack(_MAGIC, entry.flags, entry.kind, entry.subtype, len(entry.data))
    covered = head + entry.data + bytes(-len(entry.data) % _ALIGNMENT)
    return covered + _CRC.pack(_crc(covered))


def _decode(partition: bytes, place: int) -> tuple[Tlv, int]:
    magic, flags, kind, subtype, length = _HEADER.unpack_from(partition, place)
    start = place + _HEADER.size
    end = start + length + -length % _ALIGNMENT + _CRC.size
    entry = Tlv(kind, partition[start : start + length], subtype, flags)
    if magic != _MAGIC or _encode(entry) != partition[place:end]:
        raise _damaged(f"the entry at 0x{place:X} is broken")
    return entry, end


def _crc(octets: bytes) -> int:
    return zlib.crc32(octets, 0xFFFFFFFF)


def _damaged(reason: str) -> DeviceFault:
    return DeviceFault(
        "target.partition.damaged",
        f"the partition cannot be read: {reason}",
        hint="Provision the device again as rework, with a new identity.",
    )
