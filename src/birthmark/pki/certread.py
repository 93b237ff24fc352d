"""Opens a certificate for the checks: its original octets, and the parsed object beside them.

What ``cryptography`` would only warn about (a serial number that is not positive, a common name above 64
characters) is told here before it is asked, so that nothing ever depends on warning filters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

from cryptography import x509

from birthmark.errors import Refused
from birthmark.pki.derread import SEQUENCE, Node, bits_of, expect, oid_text, read_der, read_members

__all__ = [
    "UNREADABLE",
    "CertificateParts",
    "SpkiReader",
    "name_faults",
    "open_parts",
    "parse_certificate",
    "serial_faults",
]

UNREADABLE = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
"""What ``cryptography`` raises for certificates and requests it cannot read."""

_MAX_SERIAL_OCTETS = 20
_VERSION = 0xA0
_LENGTHS = {"2.5.4.3": range(1, 65), "2.5.4.6": range(2, 3), "1.3.6.1.4.1.311.60.2.1.3": range(2, 3)}
_BMP_STRING, _UTF8_STRING = 0x1E, 0x0C


@dataclass(frozen=True, slots=True)
class CertificateParts:
    """The octets of a certificate: ``tbs`` as signed, ``algorithm`` OID with its parameters (DER or empty)."""

    der: bytes
    tbs: bytes
    cert_serial: bytes
    issuer: Node
    subject: Node
    not_after: Node
    spki: bytes
    algorithm: str
    parameters: bytes
    same_algorithm: bool
    signature: bytes


def open_parts(der: bytes) -> CertificateParts:
    """Return the parts of a certificate; ``Refused`` ``der.malformed`` if it is none (RFC 5280, 4.1)."""
    try:
        tbs, algorithm, bits = read_members(read_der(der))
        fields = read_members(expect(tbs, 0x30))
        if fields[0].tag == 0xA0:
            del fields[0]
        serial, inner, issuer, validity, subject, key = fields[:6]
        oid, *parameters = read_members(algorithm)
        _, not_after = read_members(validity)
    except (ValueError, IndexError) as error:
        raise Refused(
            "der.malformed",
            "this does not have the parts of a certificate",
            hint="Send one X.509 certificate in DER.",
        ) from error
    return CertificateParts(
        der=der,
        tbs=tbs.whole,
        cert_serial=expect(serial, 0x02).content,
        issuer=issuer,
        subject=subject,
        not_after=not_after,
        spki=key.whole,
        algorithm=oid_text(oid),
        parameters=b"".join(part.whole for part in parameters),
        same_algorithm=inner.whole == algorithm.whole,
        signature=bits_of(bits),
    )


class SpkiReader:
    """Finds the SubjectPublicKeyInfo in certificate after certificate (RFC 5280, 4.1).

    Where it is follows from the tags and lengths before it alone. Those of the last certificate are remembered: one
    that has the same at the same places, as all of one template do, is not walked through again.
    """

    def __init__(self) -> None:
        self._headers: Callable[[bytes], tuple[int, ...]] = lambda der: ()
        self._known: tuple[int, ...] = (0,)
        self._at = self._end = 0

    def spki(self, der: bytes) -> bytes:
        """Return the SubjectPublicKeyInfo (DER) of a certificate; ``Refused("der.malformed")`` if there is none.

        Everything else about the certificate is for others to check.
        """
        try:
            if der[0] != SEQUENCE or der[1] != 0x82 or 4 + (der[2] << 8 | der[3]) != len(der):
                return open_parts(der).spki
            if not self._is_alike(der):
                self._walk(der)
        except (ValueError, IndexError):
            raise Refused(
                "der.malformed",
                "this does not have the parts of a certificate",
                hint="Send one X.509 certificate in DER.",
            ) from None
        return der[self._at : self._end]

    def _is_alike(self, der: bytes) -> bool:
        try:
            return self._headers(der) == self._known
        except IndexError:
            return False  # the last one was longer

    def _walk(self, der: bytes) -> None:
        self._known = (0,)  # matches nothing if the way is lost
        tbs, _ = _contents(der, 4)
        seen = [*range(4, tbs)]
        at = start = end = tbs
        skipped = 6 if der[at] == _VERSION else 5  # version, serial, signature algorithm, issuer, validity, subject
        for _ in range(skipped + 1):
            begin, end = _contents(der, at)
            seen += range(at, begin)
            start, at = at, end
        if der[4] != SEQUENCE or der[start] != SEQUENCE or end > len(der):
            raise ValueError("no key")
        self._headers, self._at, self._end = itemgetter(*seen), start, end
        self._known = self._headers(der)


def _contents(der: bytes, at: int) -> tuple[int, int]:
    """Return where the contents of the value at ``at`` begin and end."""
    length = der[at + 1]
    if length < 0x80:
        return at + 2, at + 2 + length
    begin = at + 2 + (length & 0x7F)
    if not 0x81 <= length <= 0x84:
        raise ValueError("an indefinite or oversized length")
    return begin, begin + int.from_bytes(der[at + 2 : begin], "big")


def parse_certificate(parts: CertificateParts) -> x509.Certificate:
    """Return the parsed certificate with everything lazy already read.

    Raises ``Refused`` ``der.malformed`` for every way in which it cannot be read, the faults of serial and
    names included.
    """
    faults = [*serial_faults(parts), *name_faults(parts.subject), *name_faults(parts.issuer)]
    if faults:
        raise _unreadable(faults[0])
    try:
        cert = x509.load_der_x509_certificate(parts.der)
        _ = cert.version, cert.subject, cert.issuer, cert.extensions
        _ = cert.not_valid_before_utc, cert.not_valid_after_utc
    except UNREADABLE as error:
        raise _unreadable(str(error)) from error
    return cert


def _unreadable(reason: str) -> Refused:
    return Refused(
        "der.malformed",
        f"this is not a certificate: {reason}",
        hint="Send one X.509 certificate in DER.",
        reason=reason[:200],
    )


def serial_faults(parts: CertificateParts) -> list[str]:
    """Return what is wrong with the form of the serial number (RFC 5280, 4.1.2.2)."""
    serial = parts.cert_serial
    faults = []
    if len(serial) > _MAX_SERIAL_OCTETS:
        faults.append(f"the serial number has {len(serial)} octets")
    if serial[:1] >= b"\x80" or not serial.strip(b"\0"):
        faults.append("the serial number is not positive")
    return faults


def name_faults(name: Node) -> list[str]:
    """Return what is wrong with the lengths in a Name (RFC 5280, appendix A: CN 1 to 64, C 2)."""
    faults = []
    for rdn in read_members(expect(name, 0x30)):
        for attribute in read_members(expect(rdn, 0x31)):
            members = read_members(expect(attribute, 0x30))
            if len(members) != 2:
                return ["an attribute of a name does not have type and value"]
            oid, value = oid_text(members[0]), members[1]
            length = _characters(value)
            if length not in _LENGTHS.get(oid, range(length, length + 1)):
                faults.append(f"the attribute {oid} of a name has {length} characters")
    return faults


def _characters(value: Node) -> int:
    if value.tag == _BMP_STRING:
        return len(value.content) // 2
    return len(value.content.decode("utf-8", "replace")) if value.tag == _UTF8_STRING else len(value.content)
