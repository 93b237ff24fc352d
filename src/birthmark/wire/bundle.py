"""The payloads of a bundle (docs/formats/bundle.md): its header, and chunks of up to 512 devices.

Whoever decodes holds one chunk at a time. A length is believed only as far as there are octets; what decodes is
spelled in the one way that the format allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import msgspec

from birthmark.errors import Tampered
from birthmark.model.siteevents import SiteMode
from birthmark.wire.document import DocumentPart, Moment, Text
from birthmark.wire.hpke import SUITES, SuiteName
from birthmark.wire.manifest import BundleId, Count, Name

__all__ = [
    "BUNDLE_MAGIC",
    "CHUNK",
    "CHUNK_LIMIT",
    "HEADER",
    "BundleChunk",
    "BundleHeader",
    "bits_of_places",
    "content_key_info",
    "decode_chunk",
    "decode_header",
    "encode_chunk",
    "encode_header",
]

BUNDLE_MAGIC = b"birthmark-bundle/1"
HEADER, CHUNK = b"H", b"C"
CHUNK_LIMIT = 512
_HASH = 32
_SERIAL = rb"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?"
_SERIALS = re.compile(rb"%b(?:\n%b)*" % (_SERIAL, _SERIAL))


class BundleHeader(DocumentPart, frozen=True, kw_only=True):
    """Frame ``H``. ``suite`` is None and ``slot_octets`` 0 unless the mode is ``pool``."""

    bundle: BundleId
    authority: Text
    site: Name
    site_prefix: Text
    order: Name
    mode: SiteMode
    suite: SuiteName | None
    slot_octets: Count
    created_at: Moment


class _Facts(DocumentPart, frozen=True, kw_only=True):
    chunk: Count
    first: Count
    count: Count
    present: Count


@dataclass(frozen=True, slots=True)
class BundleChunk:
    """Frame ``C``: the ``count`` devices of a chunk, and the identities of those that are present.

    ``device_serials``: of all devices, one a line. ``places``: the present ones within the chunk, ascending.
    ``certificates`` (DER) are theirs; ``slots`` are ``count`` slots. Without keys (mode other than pool) every device
    is present and the rest is empty.
    """

    chunk: int
    first: int
    count: int
    device_serials: bytes
    places: Sequence[int]
    certificates: Sequence[bytes] = ()
    encapsulated: bytes = b""
    slots: bytes = b""


_encoder = msgspec.json.Encoder(order="sorted")
_headers = msgspec.json.Decoder(BundleHeader)
_facts = msgspec.json.Decoder(_Facts)


def encode_header(header: BundleHeader) -> bytes:
    """Return the payload of frame ``H``."""
    return _encoder.encode(header)


def decode_header(payload: bytes) -> BundleHeader:
    """Return the header; ``Tampered("bundle.malformed")`` if it is none in canonical form."""
    try:
        header = _headers.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise _malformed(f"its header: {problem}") from None
    sealed = header.mode == "pool"
    if _encoder.encode(header) != payload or sealed != (header.suite is not None) or sealed != (header.slot_octets > 0):
        raise _malformed("its header is not in canonical form")
    return header


def content_key_info(header: bytes, chunk: int) -> bytes:
    """Return the HPKE ``info`` of a chunk's content key; ``header``: payload of frame ``H``."""
    return BUNDLE_MAGIC + b"\0" + sha256(header).digest() + chunk.to_bytes(8, "big")


def bits_of_places(places: Iterable[int], count: int) -> bytes:
    """Return ``count`` bits, those of ``places`` set; place 0 is the highest bit of the first octet."""
    bits = bytearray(-(-count // 8))
    for place in places:
        bits[place >> 3] |= 0x80 >> (place & 7)
    return bytes(bits)


@cache
def _bits_of_all(count: int) -> bytes:
    """Return ``count`` bits, all of them set (at most 512 different ones)."""
    return bits_of_places(range(count), count)


def encode_chunk(chunk: BundleChunk, *, sealed: bool) -> bytes:
    """Return the payload of frame ``C``; ``sealed``: the mode is ``pool``."""
    facts = _Facts(chunk=chunk.chunk, first=chunk.first, count=chunk.count, present=len(chunk.places))
    parts = [_encoder.encode(facts), chunk.device_serials, b"", b"", b"", b""]
    if sealed:
        whole = len(chunk.places) == chunk.count
        parts[2] = _bits_of_all(chunk.count) if whole else bits_of_places(chunk.places, chunk.count)
    if chunk.certificates:
        packed: list[bytes] = []
        for certificate in chunk.certificates:
            packed += (len(certificate).to_bytes(2, "big"), certificate)
        parts[3] = b"".join(packed)
        parts[4] = sha256(chunk.encapsulated).digest() + chunk.encapsulated
        parts[5] = chunk.slots
    return b"".join(octets for part in parts for octets in (len(part).to_bytes(4, "big"), part))


def decode_chunk(payload: bytes, header: BundleHeader, *, seen: bool = False) -> BundleChunk:
    """Return a chunk; ``Tampered("bundle.malformed")`` for everything that is not spelled as the format says.

    ``seen``: the same octets were decoded before, so that only what is needed of them is looked at.
    """
    told, device_serials, bits, certificates, key, slots = _parts(payload)
    facts = _facts_of(told, device_serials, seen=seen)
    count = facts.count
    if header.suite is None:
        if facts.present != count or bits or certificates or key or slots:
            raise _malformed(f"chunk {facts.chunk} of a work order has identities")
        return BundleChunk(facts.chunk, facts.first, count, device_serials, range(count))
    places = _places(bits, count)
    if len(places) != facts.present:
        raise _malformed(f"chunk {facts.chunk} tells {facts.present} identities and marks {len(places)}")
    if not places:
        if certificates or key or slots:
            raise _malformed(f"chunk {facts.chunk} has keys for nobody")
        return BundleChunk(facts.chunk, facts.first, count, device_serials, places)
    if not seen:
        _check_slots(slots, places, count, header.slot_octets)
        _check_key(key, header.suite, facts.chunk)
    found = _unpack(certificates)
    if len(found) != len(places):
        raise _malformed(f"chunk {facts.chunk} has {len(found)} certificates for {len(places)} devices")
    return BundleChunk(facts.chunk, facts.first, count, device_serials, places, found, key[_HASH:], slots)


def _facts_of(told: bytes, device_serials: bytes, *, seen: bool) -> _Facts:
    try:
        facts = _facts.decode(told)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise _malformed(f"a chunk: {problem}") from None
    if seen:
        return facts
    named = _SERIALS.fullmatch(device_serials) is not None and device_serials.count(b"\n") == facts.count - 1
    if _encoder.encode(facts) != told or not 1 <= facts.count <= CHUNK_LIMIT or not named:
        raise _malformed(f"chunk {facts.chunk} does not name its {facts.count} devices")
    return facts


def _check_key(key: bytes, suite: SuiteName, chunk: int) -> None:
    encapsulated = key[_HASH:]
    if len(encapsulated) != SUITES[suite].sealed_octets or sha256(encapsulated).digest() != key[:_HASH]:
        raise _malformed(f"the content key of chunk {chunk} is damaged")


def _parts(payload: bytes) -> list[bytes]:
    parts: list[bytes] = []
    at = 0
    while at < len(payload) and len(parts) < 6:
        begin = at + 4
        at = begin + int.from_bytes(payload[at:begin], "big")
        parts.append(payload[begin:at])
    if at != len(payload) or len(parts) != 6:
        raise _malformed("a chunk does not have its six parts")
    return parts


def _places(bits: bytes, count: int) -> Sequence[int]:
    octets = -(-count // 8)
    if bits == _bits_of_all(count):
        return range(count)
    marks = f"{int.from_bytes(bits[:octets], 'big'):0{8 * octets}b}"
    places = [place for place, mark in enumerate(marks[:count]) if mark == "1"]
    if bits_of_places(places, count) != bits:
        raise _malformed("the marks of a chunk's devices are not one bit each")
    return places


def _check_slots(slots: bytes, places: Sequence[int], count: int, slot_octets: int) -> None:
    if len(slots) != count * slot_octets:
        raise _malformed("the slots of a chunk are not of the size that the header tells")
    empty, present = bytes(slot_octets), frozenset(places)
    if len(places) == count and bytes(min(slot_octets, 16)) not in slots:
        return  # the usual case, and a hot path
    for place in range(count):
        is_empty = slots[place * slot_octets : (place + 1) * slot_octets] == empty
        if is_empty is (place in present):
            raise _malformed("a chunk has a key for a device that is not present, or none for one that is")


def _unpack(packed: bytes) -> list[bytes]:
    found: list[bytes] = []
    at, end = 0, len(packed)
    while at + 2 <= end:
        begin = at + 2
        at = begin + (packed[at] << 8 | packed[at + 1])
        found.append(packed[begin:at])
    if at != end:
        raise _malformed("the last certificate of a chunk is cut off")
    return found


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "bundle.malformed",
        f"this bundle cannot be read: {reason}",
        hint="Copy it again from where it was made; if it stays so, have it sealed again.",
        reason=reason[:200],
    )
