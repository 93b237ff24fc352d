"""The few spans of a certificate that the audit compares byte by byte (RFC 5280 section 4.1, X.690)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CertificateSpans", "certificate_spans", "spki_bits", "tlv", "validity_window"]


class CertificateSpans(NamedTuple):
    """Parts of one certificate as they are encoded. ``cert_serial`` is the content of the INTEGER."""

    tbs: bytes
    cert_serial: bytes
    inner_algorithm: bytes
    issuer: bytes
    validity: bytes
    subject: bytes
    spki: bytes
    extensions: bytes
    outer_algorithm: bytes
    signature: bytes


def _span(der: bytes, at: int) -> tuple[int, int]:
    """Return start and end of the content of the element at ``at``."""
    length = der[at + 1]
    if length < 0x80:
        return at + 2, at + 2 + length
    start = at + 2 + (length & 0x7F)
    return start, start + int.from_bytes(der[at + 2 : start], "big")


def certificate_spans(der: bytes) -> CertificateSpans | None:
    """Return the spans of a version 3 certificate; None if it is none. The caller parses it fully elsewhere."""
    try:
        outer, _ = _span(der, 0)
        tbs, tbs_end = _span(der, outer)
        _, at = _span(der, tbs)
        if der[tbs] != 0xA0:
            return None
        serial, serial_end = _span(der, at)
        _, algorithm_end = _span(der, serial_end)
        _, issuer_end = _span(der, algorithm_end)
        _, validity_end = _span(der, issuer_end)
        _, subject_end = _span(der, validity_end)
        _, spki_end = _span(der, subject_end)
        _, outer_algorithm_end = _span(der, tbs_end)
        signature, signature_end = _span(der, outer_algorithm_end)
    except IndexError:
        return None
    if signature_end != len(der) or der[outer_algorithm_end] != 0x03 or der[signature] != 0 or spki_end > tbs_end:
        return None
    return CertificateSpans(
        der[outer:tbs_end],
        der[serial:serial_end],
        der[serial_end:algorithm_end],
        der[algorithm_end:issuer_end],
        der[issuer_end:validity_end],
        der[validity_end:subject_end],
        der[subject_end:spki_end],
        der[spki_end:tbs_end],
        der[tbs_end:outer_algorithm_end],
        der[signature + 1 : signature_end],
    )


def validity_window(validity: bytes) -> tuple[str, str] | None:
    """Return notBefore and notAfter as ``YYYYMMDDHHMMSS`` (RFC 5280 section 4.1.2.5), None if they are malformed."""
    try:
        at, end = _span(validity, 0)
        times = []
        while at < end:
            start, stop = _span(validity, at)
            text = validity[start:stop].decode("ascii")
            if validity[at] == 0x17 and len(text) == 13:
                text = ("19" if text[:2] >= "50" else "20") + text
            if len(text) != 15 or text[14] != "Z" or not text[:14].isdigit():
                return None
            times.append(text[:14])
            at = stop
    except (IndexError, UnicodeDecodeError):
        return None
    return (times[0], times[1]) if len(times) == 2 else None


def spki_bits(spki: bytes) -> bytes:
    """Return the key bits of a SubjectPublicKeyInfo, without the count of unused bits; empty if it is none."""
    try:
        content, _ = _span(spki, 0)
        _, algorithm_end = _span(spki, content)
        start, end = _span(spki, algorithm_end)
    except IndexError:
        return b""
    return spki[start + 1 : end]


def tlv(tag: int, length: int) -> bytes:
    """Return the identifier and length octets of an element (X.690, 8.1.3 and 10.1)."""
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets
