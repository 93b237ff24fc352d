"""Microchip's compressed certificate: 72 octets that say what a certificate has beyond its template.

Format: application note "ATECC Compressed Certificate Definition" (Atmel-8974, Microchip DS20006367). r ‖ s of the
signature (64) · dates (3): year - 2000 (5 bits), month (4), day (5), hour (5), years valid (5, 0 for ever) · signer id
(2) · template id (4 bits), chain id (4) · source of the serial number (4 bits), format 0 (4) · 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.errors import Refused
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.der import bit_string, tlv
from birthmark.pki.derread import SEQUENCE, read_der, read_members

__all__ = [
    "COMPRESSED_OCTETS",
    "SERIAL_OCTETS",
    "SN_STORED",
    "VALIDITY_OCTETS",
    "Compressed",
    "Shape",
    "compress",
    "rebuild",
    "shape_of",
    "signer_id",
]

COMPRESSED_OCTETS = 72
VALIDITY_OCTETS = 32
SERIAL_OCTETS = 32
SN_STORED = 0
"""Source 0: the serial number of the certificate is stored in the chip."""

_ECDSA_SHA256 = "1.2.840.10045.4.3.2"
_FIRST_YEAR, _MOST_YEARS = 2000, 31
_FOREVER = 9999
_POINT_OCTETS = 64
_LARGEST = 4096
_HEADER_OCTETS = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """Where in a certificate the holes of its template are. Offsets count from the first octet of the certificate.

    ``template``: the certificate up to its signature, the holes filled with zeros. ``validity``: from the contents of
    notBefore to the end of notAfter. ``names``: where the device serial stands. Size 0: no such hole.
    """

    template: bytes
    point: int
    key_id: int
    serial: tuple[int, int]
    validity: tuple[int, int]
    names: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Compressed:
    """What is stored of one certificate. ``point``: X ‖ Y of its key, 64 octets."""

    octets: bytes
    point: bytes
    validity: bytes
    serial: bytes


def shape_of(certificate: bytes, device_serial: str | None) -> Shape:
    """Return the template of a certificate; ``Refused("atecc.not_compressible")`` says what does not fit.

    Without a device serial it is that of the issuing CA, the same for every device: only key and signature are holes.
    """
    parsed = _parse(certificate)
    point = _point(parsed)
    if parsed.signature_algorithm_oid.dotted_string != _ECDSA_SHA256:
        _refuse("its signature is not ECDSA with SHA-256")
    if _header(certificate) != _HEADER_OCTETS:
        _refuse("it has fewer than 256 octets")
    _raw_signature(parsed)
    places = _fields(certificate)
    body = certificate[: places["signature"]]
    holes = [(_once(body, point, "its key"), _POINT_OCTETS)]
    key_id, serial, validity = 0, (0, 0), (0, 0)
    names: tuple[int, ...] = ()
    if device_serial is not None:
        serial, validity = _contents(certificate, places["serial"]), _validity(certificate, places["validity"])
        names = tuple(_all(body, device_serial.encode()))
        if not names:
            _refuse("it does not name the device by the serial number of its chip")
        if not 0 < serial[1] <= SERIAL_OCTETS or not 0 < validity[1] <= VALIDITY_OCTETS:
            _refuse("its serial number or its dates are too long")
        _check_year(parsed)
        key_id = _key_id(parsed, body, point)
        holes += [serial, validity, *((at, len(device_serial)) for at in names)]
        holes += [(key_id, 20)] if key_id else []
    blank = bytearray(body)
    blank[2:_HEADER_OCTETS] = bytes(2)  # the length of the whole depends on the signature
    for at, size in holes:
        blank[at : at + size] = bytes(size)
    return Shape(bytes(blank), holes[0][0], key_id, serial, validity, names)


def compress(certificate: bytes, shape: Shape, *, template: int, chain: int, signer: bytes) -> Compressed:
    """Return what is stored of ``certificate``. ``signer``: two octets; ``template`` and ``chain``: 0 to 15."""
    parsed = _parse(certificate)
    ids = bytes([template << 4 | chain, SN_STORED << 4, 0])
    octets = _raw_signature(parsed) + _dates(parsed) + signer + ids
    spans = [certificate[at : at + size] for at, size in (shape.validity, shape.serial)]
    return Compressed(octets, _point(parsed), *spans)


def rebuild(shape: Shape, stored: Compressed, device_serial: str) -> bytes:
    """Return the certificate (DER) that these octets and this template make. Nothing is verified."""
    body = bytearray(shape.template)
    body[shape.point : shape.point + _POINT_OCTETS] = stored.point
    for (at, size), value in ((shape.validity, stored.validity), (shape.serial, stored.serial)):
        body[at : at + size] = value[:size]
    for at in shape.names:
        body[at : at + len(device_serial)] = device_serial.encode()
    if shape.key_id:
        # RFC 5280, 4.2.1.2, method 1: SHA-1 names the key here, nothing is secured by it.
        body[shape.key_id : shape.key_id + 20] = sha1(b"\x04" + stored.point, usedforsecurity=False).digest()
    r, s = (int.from_bytes(stored.octets[at : at + 32], "big") for at in (0, 32))
    signature = bit_string(encode_dss_signature(r, s))
    return tlv(SEQUENCE, bytes(body[_HEADER_OCTETS:]) + signature)


def signer_id(certificate: bytes) -> bytes:
    """Return the two octets that name an issuing CA: the first of the SHA-256 of its key."""
    spki = _parse(certificate).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(spki).digest()[:2]


def _parse(certificate: bytes) -> x509.Certificate:
    if len(certificate) > _LARGEST:
        _refuse(f"it has more than {_LARGEST} octets")
    try:
        return x509.load_der_x509_certificate(certificate)
    except (*UNREADABLE, UnsupportedAlgorithm):
        _refuse("it is no certificate")


def _point(parsed: x509.Certificate) -> bytes:
    key = parsed.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        _refuse("its key is not on P-256")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def _raw_signature(parsed: x509.Certificate) -> bytes:
    """Return r ‖ s, 64 octets."""
    try:
        r, s = decode_dss_signature(parsed.signature)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    except (ValueError, OverflowError):
        _refuse("its signature is not one of a P-256 key")


def _fields(certificate: bytes) -> dict[str, int]:
    """Return where serial number, validity and signature begin (their tags)."""
    tbs, algorithm, _ = read_members(read_der(certificate))
    begin = _header(certificate)
    at = begin + _header(tbs.whole)
    places = {"signature": begin + len(tbs.whole) + len(algorithm.whole)}
    fields = read_members(tbs)
    names = ["serial", "algorithm", "issuer", "validity"]
    for name, field in zip(["version", *names] if fields[0].tag == 0xA0 else names, fields, strict=False):
        places[name] = at
        at += len(field.whole)
    return places


def _header(der: bytes) -> int:
    """Return how many octets tag and length take."""
    return 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)


def _contents(der: bytes, at: int) -> tuple[int, int]:
    node = read_members(read_der(tlv(SEQUENCE, _value(der, at))))[0]
    return at + _header(node.whole), len(node.content)


def _validity(der: bytes, at: int) -> tuple[int, int]:
    begin = at + _header(der[at:])
    not_before, not_after = read_members(read_der(_value(der, at)))
    first = begin + _header(not_before.whole)
    return first, begin + len(not_before.whole) + len(not_after.whole) - first


def _value(der: bytes, at: int) -> bytes:
    """Return the value that begins at ``at`` whole; its length is of a certificate that was parsed."""
    header = _header(der[at:])
    length = der[at + 1] if header == 2 else int.from_bytes(der[at + 2 : at + header], "big")
    return der[at : at + header + length]


def _key_id(parsed: x509.Certificate, body: bytes, point: bytes) -> int:
    try:
        found = parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return 0
    if found != sha1(b"\x04" + point, usedforsecurity=False).digest():
        _refuse("its subject key identifier is not the SHA-1 of its key")
    return _once(body, found, "its subject key identifier")


def _check_year(parsed: x509.Certificate) -> None:
    year = parsed.not_valid_before_utc.year - _FIRST_YEAR
    if not 0 <= year <= _MOST_YEARS:
        _refuse(f"its validity does not begin in the years {_FIRST_YEAR} to {_FIRST_YEAR + _MOST_YEARS}")


def _dates(parsed: x509.Certificate) -> bytes:
    """Return the dates in three octets: the hour and the years, rounded down. A CA older than 2000 counts as 2000."""
    begin, end = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    year = min(max(begin.year - _FIRST_YEAR, 0), _MOST_YEARS)
    whole = end.year - begin.year - (end.timetuple()[1:6] < begin.timetuple()[1:6])
    years = 0 if end.year == _FOREVER else min(max(whole, 1), _MOST_YEARS)
    bits = year << 19 | begin.month << 15 | begin.day << 10 | begin.hour << 5 | years
    return bits.to_bytes(3, "big")


def _all(body: bytes, part: bytes) -> Iterator[int]:
    at = body.find(part)
    while at >= 0:
        yield at
        at = body.find(part, at + len(part))


def _once(body: bytes, part: bytes, what: str) -> int:
    places = list(_all(body, part))
    if len(places) != 1:
        _refuse(f"{what} stands in it {len(places)} times")
    return places[0]


def _refuse(reason: str) -> NoReturn:
    raise Refused(
        "atecc.not_compressible",
        f"a certificate cannot be stored in compressed form: {reason}",
        hint="Use layout=der, or a profile and an issuing CA that can be compressed (docs/targets/atecc.md).",
        reason=reason,
    )
