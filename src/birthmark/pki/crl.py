"""Revocation lists (RFC 5280, section 5): built from plain values, signed, read back.

The list is written octet by octet, since the builder of ``cryptography`` copies all entries for each one more. Every
list is read back by ``cryptography`` and its signature verified before it counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import Misconfigured, Refused, Tampered
from birthmark.pki.algorithms import algorithm_of, certified_key
from birthmark.pki.certread import UNREADABLE, open_parts
from birthmark.pki.der import bit_string, integer, oid, time, tlv

__all__ = ["REASONS", "CrlSummary", "RevokedCertificate", "build_crl", "read_crl"]

REASONS = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
"""CRLReason by name (RFC 5280, 5.3.1). certificateHold and removeFromCRL are not made here: revoking is for ever."""

_SEQUENCE, _ENUMERATED, _OCTET_STRING = 0x30, 0x0A, 0x04
_CRL_NUMBER, _AUTHORITY_KEY, _REASON = oid("2.5.29.20"), oid("2.5.29.35"), oid("2.5.29.21")
_MAX_NUMBER = 1 << 159


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """One entry. ``cert_serial``: big-endian octets; ``at``: when it was revoked, UTC; ``reason`` of ``REASONS``."""

    cert_serial: bytes
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class CrlSummary:
    """What a list says of itself. ``entries``: how many certificates it names."""

    number: int
    this_update: datetime
    next_update: datetime
    entries: int


def build_crl(
    issuer: x509.Certificate,
    private_key: Any,
    revoked: Iterable[RevokedCertificate],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
) -> bytes:
    """Return the complete list (DER, v2) of a CA, with authorityKeyIdentifier and cRLNumber.

    Raises ``Refused``: ``crl.key_usage``, ``crl.window``, ``crl.reason``; ``Misconfigured("crl.key.mismatch")``;
    ``Tampered("crl.signature")`` when the key signs with another key than the certificate has.
    """
    _require_crl_signer(issuer)
    if not this_update < next_update <= issuer.not_valid_after_utc or not 0 < number < _MAX_NUMBER:
        raise Refused(
            "crl.window",
            "the list would not be valid from now to a later moment within the life of its CA",
            hint="Use fewer days, or a CA that lives longer.",
            this_update=this_update.isoformat(),
            next_update=next_update.isoformat(),
            issuer_not_after=issuer.not_valid_after_utc.isoformat(),
        )
    public_key = certified_key(issuer)
    algorithm = algorithm_of(public_key)
    if private_key.public_key() != public_key:
        raise Misconfigured(
            "crl.key.mismatch",
            "the private key is not the one of the CA certificate",
            hint="Check the key URI of this CA in birthmark.toml.",
        )
    entries = b"".join(_entry(item) for item in revoked)
    to_be_signed = tlv(
        _SEQUENCE,
        integer(1)
        + algorithm.signature_algorithm
        + _subject_octets(issuer)
        + time(_seconds(this_update))
        + time(_seconds(next_update))
        + (tlv(_SEQUENCE, entries) if entries else b"")
        + tlv(0xA0, tlv(_SEQUENCE, _authority_key(issuer) + _extension(_CRL_NUMBER, integer(number)))),
    )
    signature = algorithm.sign(private_key, to_be_signed)
    crl = tlv(_SEQUENCE, to_be_signed + algorithm.signature_algorithm + bit_string(signature))
    read_crl(crl, issuer)
    return crl


def read_crl(der: bytes, issuer: x509.Certificate) -> CrlSummary:
    """Return what a list of this CA says of itself.

    Raises ``Tampered``: ``crl.malformed`` (not a complete list with number and next update), ``crl.signature``.
    """
    try:
        crl = x509.load_der_x509_crl(der)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        next_update = crl.next_update_utc
        entries = len(crl)
        ours = crl.issuer == issuer.subject and next_update is not None
    except (*UNREADABLE, x509.ExtensionNotFound) as error:
        raise _malformed(str(error)) from error
    if not ours or next_update is None:
        raise _malformed("it is of another CA, or says not when the next one comes")
    algorithm = algorithm_of(certified_key(issuer))
    if not algorithm.verify(certified_key(issuer), crl.signature, crl.tbs_certlist_bytes):
        raise Tampered(
            "crl.signature",
            "a revocation list is not signed by its CA",
            hint="Stop: check the key of this CA, and where the file came from.",
            issuer=issuer.subject.rfc4514_string(),
        )
    return CrlSummary(number, crl.last_update_utc, next_update, entries)


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "crl.malformed",
        f"this is not a revocation list of this CA: {reason}",
        hint="Move the file away, then make the list again with `birthmark ca crl`.",
        reason=reason[:200],
    )


def _require_crl_signer(issuer: x509.Certificate) -> None:
    """RFC 5280, 4.2.1.3: whoever signs lists has cRLSign, if it has a keyUsage at all; ours must have one."""
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or not usage.crl_sign:
        raise Refused(
            "crl.key_usage",
            "the certificate of this CA does not allow signing revocation lists (cRLSign)",
            hint="Ask whoever signed the CA for keyUsage keyCertSign and cRLSign.",
            issuer=issuer.subject.rfc4514_string(),
        )


def _subject_octets(issuer: x509.Certificate) -> bytes:
    """Return the subject as it stands in the certificate: names compare octet by octet in many programs."""
    return open_parts(issuer.public_bytes(Encoding.DER)).subject.whole


def _authority_key(issuer: x509.Certificate) -> bytes:
    """RFC 5280, 5.2.1: the key identifier that the CA certificate has."""
    try:
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        key_id = x509.SubjectKeyIdentifier.from_public_key(certified_key(issuer)).digest
    return _extension(_AUTHORITY_KEY, tlv(_SEQUENCE, tlv(0x80, key_id)))


def _extension(identifier: bytes, value: bytes) -> bytes:
    return tlv(_SEQUENCE, identifier + tlv(_OCTET_STRING, value))


def _entry(item: RevokedCertificate) -> bytes:
    reason = REASONS.get(item.reason)
    if reason is None:
        raise Refused(
            "crl.reason",
            f"{item.reason[:40]!a} is no reason of RFC 5280",
            hint=f"Use one of {', '.join(REASONS)}.",
            reason=ascii(item.reason[:40]),
        )
    serial = integer(int.from_bytes(item.cert_serial, "big"))
    # RFC 5280, 5.3.1: unspecified is said by leaving the reason out.
    extensions = tlv(_SEQUENCE, _extension(_REASON, tlv(_ENUMERATED, bytes((reason,))))) if reason else b""
    return tlv(_SEQUENCE, serial + time(_seconds(item.at)) + extensions)


def _seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
