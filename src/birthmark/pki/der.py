"""Writes DER (X.690) with holes: values whose octets are known only when a certificate is made.

A *part* is finished octets, a ``Hole``, or a ``Nested`` value whose length still depends on a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

__all__ = [
    "FALSE",
    "TRUE",
    "Hole",
    "Nested",
    "Part",
    "bit_string",
    "boolean",
    "holes",
    "integer",
    "length_octets",
    "merge",
    "named_bits",
    "nested",
    "octet_string",
    "oid",
    "sequence",
    "settle",
    "size",
    "time",
    "tlv",
]

TRUE, FALSE = b"\x01\x01\xff", b"\x01\x01\x00"


class Hole(Enum):
    """What is filled in per certificate. The value is the name that a stored template uses."""

    CERT_SERIAL = "cert_serial"
    DEVICE_SERIAL = "device_serial"
    SPKI = "spki"
    KEY_ID = "key_id"


@dataclass(frozen=True, slots=True)
class Nested:
    """A value (one-octet tag) around parts of which one at least is a hole."""

    tag: int
    parts: tuple[Part, ...]


Part = bytes | Hole | Nested


def length_octets(length: int) -> bytes:
    """Return the shortest definite form (X.690, 8.1.3 and 10.1)."""
    if length < 0x80:
        return bytes((length,))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(octets),)) + octets


def tlv(tag: int, content: bytes) -> bytes:
    """Return one value with a one-octet tag."""
    return bytes((tag,)) + length_octets(len(content)) + content


def integer(value: int) -> bytes:
    """Return an INTEGER that is zero or positive."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def boolean(value: bool) -> bytes:
    """Return a BOOLEAN (X.690, 11.1)."""
    return TRUE if value else FALSE


def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER; ``dotted`` is well formed (two arcs or more)."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        content += bytes(reversed(septets))
    return tlv(0x06, bytes(content))


def bit_string(octets: bytes) -> bytes:
    """Return a BIT STRING without unused bits."""
    return tlv(0x03, b"\0" + octets)


def named_bits(positions: Iterable[int]) -> bytes:
    """Return a BIT STRING of named bits, trailing zeros dropped (X.690, 11.2.2). ``positions`` is not empty."""
    wanted = set(positions)
    last = max(wanted)
    value = sum(1 << (last - position) for position in wanted)
    unused = 7 - last % 8
    return tlv(0x03, bytes((unused,)) + (value << unused).to_bytes(last // 8 + 1, "big"))


def time(moment: datetime) -> bytes:
    """Return UTCTime through 2049, GeneralizedTime from 2050 on (RFC 5280, 4.1.2.5). ``moment`` is UTC."""
    digits = f"{moment.year:04d}" + moment.strftime("%m%d%H%M%SZ")
    if 1950 <= moment.year <= 2049:
        return tlv(0x17, digits[2:].encode())
    return tlv(0x18, digits.encode())


def merge(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return ``parts`` with neighbouring octets joined: one form for one content."""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, bytes) and merged and isinstance(merged[-1], bytes):
            merged[-1] += part
        elif part != b"":
            merged.append(part)
    return tuple(merged)


def nested(tag: int, *parts: Part) -> Part:
    """Return a value around ``parts``: finished octets if all of them are."""
    content = merge(parts)
    if not content:
        return tlv(tag, b"")
    if len(content) == 1 and isinstance(content[0], bytes):
        return tlv(tag, content[0])
    return Nested(tag, content)


def sequence(*parts: Part) -> Part:
    """Return a SEQUENCE."""
    return nested(0x30, *parts)


def octet_string(*parts: Part) -> Part:
    """Return an OCTET STRING."""
    return nested(0x04, *parts)


def size(parts: Iterable[Part], lengths: Mapping[Hole, int]) -> int:
    """Return the octets that ``parts`` will have; ``lengths`` knows every hole in them."""
    total = 0
    for part in parts:
        if isinstance(part, bytes):
            total += len(part)
        elif isinstance(part, Hole):
            total += lengths[part]
        else:
            content = size(part.parts, lengths)
            total += 1 + len(length_octets(content)) + content
    return total


def settle(parts: Iterable[Part], lengths: Mapping[Hole, int]) -> tuple[Part, ...]:
    """Return ``parts`` with every ``Nested`` opened whose holes all have a length in ``lengths``."""
    settled: list[Part] = []
    for part in parts:
        if not isinstance(part, Nested):
            settled.append(part)
        elif holes(part.parts) <= lengths.keys():
            content = size(part.parts, lengths)
            settled += (bytes((part.tag,)) + length_octets(content), *settle(part.parts, lengths))
        else:
            settled.append(Nested(part.tag, settle(part.parts, lengths)))
    return merge(settled)


def holes(parts: Iterable[Part]) -> set[Hole]:
    """Return the holes in ``parts``."""
    found: set[Hole] = set()
    for part in parts:
        if isinstance(part, Hole):
            found.add(part)
        elif isinstance(part, Nested):
            found |= holes(part.parts)
    return found
