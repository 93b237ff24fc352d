"""The identity as one run of octets for firmware to read in place: ``BMIDREG1`` (docs/targets/image.md)."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from birthmark.adapters.targets.identity import MAX_CHAIN
from birthmark.adapters.targets.image.form import Identity, damaged
from birthmark.errors import Refused
from birthmark.model.ids import parse_device_serial
from birthmark.pki.certread import UNREADABLE

__all__ = ["HEADER_OCTETS", "MAGIC", "decode_region", "encode_region", "is_blank", "region_length"]

MAGIC = b"BMIDREG1"
HEADER_OCTETS = 12
_DIGEST = 32
_SERIAL, _KEY, _DEVICE, _ISSUER = 1, 2, 3, 4
_LONGEST_KEY = 8 * 1024
_LONGEST = 128 * 1024


def encode_region(identity: Identity) -> bytes:
    """Return header, entries and SHA-256 of both."""
    key = identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    device, *chain = (one.public_bytes(Encoding.DER) for one in identity.certificates)
    entries = b"".join(
        (
            _entry(_SERIAL, identity.device_serial.encode("ascii")),
            _entry(_KEY, key),
            _entry(_DEVICE, device),
            *(_entry(_ISSUER, der) for der in chain),
        )
    )
    told = MAGIC + len(entries).to_bytes(4, "little") + entries
    return told + sha256(told).digest()


def is_blank(octets: bytes) -> bool:
    """Say whether these octets were never written: all 0xFF (erased flash) or all zero."""
    return octets.count(0xFF) == len(octets) or octets.count(0) == len(octets)


def region_length(header: bytes, space: int) -> int | None:
    """Return the length of the region that begins with these 12 octets; None if none does, ``DeviceFault`` if cut."""
    if not header.startswith(MAGIC):
        return None
    length = HEADER_OCTETS + int.from_bytes(header[len(MAGIC) : HEADER_OCTETS], "little") + _DIGEST
    if length > min(space, _LONGEST):
        raise damaged("its length is wrong")
    return length


def decode_region(data: bytes) -> Identity:
    """Return the identity in a whole region; ``DeviceFault`` unless it is what ``encode_region`` writes."""
    if sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise damaged("its SHA-256 does not match")
    try:
        kinds, values = zip(*_entries(data[HEADER_OCTETS:-_DIGEST]), strict=True)
        if kinds[:3] != (_SERIAL, _KEY, _DEVICE) or set(kinds[3:]) - {_ISSUER} or len(kinds) > 3 + MAX_CHAIN:
            raise ValueError("order of entries")
        # The library tests the primes of whatever it loads; a large key would keep it busy for days.
        identity = Identity(
            parse_device_serial(values[0].decode("ascii")),
            load_der_private_key(values[1][:_LONGEST_KEY], password=None),
            tuple(x509.load_der_x509_certificate(der) for der in values[2:]),
        )
        if encode_region(identity) == data:
            return identity
    except (*UNREADABLE, UnsupportedAlgorithm, Refused):
        pass
    raise damaged("its entries are not those of an identity")


def _entry(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "little") + value + bytes(-len(value) % 4)


def _entries(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at + 2 : at + 4], "little")
        value = data[at + 4 : at + 4 + length]
        if len(value) != length or data[at + 1 : at + 2] != b"\0":
            raise ValueError("an entry is cut")
        yield data[at], value
        at += 4 + length + -length % 4
