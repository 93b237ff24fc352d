"""Certificates that somebody else signed: traced to a CA on record by the issuer's name, signature and life."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidSignature

from birthmark.adapters.audit.certificates import AuthorityKey, Fault, load_certificate, open_authority
from birthmark.adapters.audit.der import CertificateSpans, certificate_spans, validity_window
from birthmark.adapters.audit.index import Authority

__all__ = ["Issuers", "is_ca", "serial_tag"]

sha256 = hashlib.sha256
_CA_TRUE = re.compile(rb"\x06\x03\x55\x1d\x13(?:\x01\x01\xff)?\x04.\x30.\x01\x01\xff", re.DOTALL)


def serial_tag(spans: CertificateSpans) -> bytes:
    """Return 32 octets that two certificates share only if they have one issuer and one serial."""
    return sha256(spans.issuer + spans.cert_serial).digest()


def is_ca(spans: CertificateSpans) -> bool:
    """Say whether a certificate claims to be one of a CA."""
    return _CA_TRUE.search(spans.extensions) is not None


class Issuers:
    """The CAs that may have signed. ``destroyed``: CA to the entry that says its key is gone.

    ``nested``: what they signed must end with them; certificates that others made for their own devices need not.
    """

    def __init__(self, authorities: Iterable[Authority], destroyed: Mapping[str, int], *, nested: bool = True) -> None:
        self._destroyed = destroyed
        self._nested = nested
        self._by_subject: dict[bytes, list[Authority]] = {}
        self._keys: dict[tuple[int, bytes], AuthorityKey | None] = {}
        for authority in authorities:
            spans = certificate_spans(authority.certificate)
            if spans is not None:
                self._by_subject.setdefault(spans.subject, []).append(authority)

    def faults(self, der: bytes, device_serial: str, spki_sha256: bytes | None, seq: int) -> list[Fault]:
        """Return what is wrong with a device certificate that came in as entry ``seq``; empty for a good one.

        ``spki_sha256``: hash of the key that was asked for, None if it is checked elsewhere.
        """
        spans = certificate_spans(der)
        if spans is None or load_certificate(der) is None:
            return [("audit.certificate.malformed", "is not a version 3 certificate in DER")]
        found: list[Fault] = []
        if spki_sha256 is not None and sha256(spans.spki).digest() != spki_sha256:
            found.append(("audit.certificate.key", "holds another key than was asked for"))
        if device_serial.encode() not in spans.tbs:
            found.append(("audit.certificate.name", "does not name the device"))
        if is_ca(spans):
            found.append(("audit.certificate.ca", "says that it is a CA"))
        fault = self.signature_fault(spans, der, seq)
        return found if fault is None else [*found, fault]

    def signature_fault(self, spans: CertificateSpans, der: bytes, seq: int) -> Fault | None:
        """Tell why no CA that was on record before entry ``seq`` vouches for a certificate; None if one does."""
        known = [authority for authority in self._by_subject.get(spans.issuer, ()) if authority.seq < seq]
        if not known:
            return "audit.certificate.issuer", "names an issuer that is not on record"
        for authority in known:
            key = self._key(authority, spans.outer_algorithm, der)
            if key is None or spans.inner_algorithm != spans.outer_algorithm:
                continue
            try:
                key.verify(spans.tbs, sha256(spans.tbs).digest(), spans.signature)
            except InvalidSignature:
                continue
            return self._life_fault(authority, key, spans, seq)
        return "audit.signature", "is not signed by its CA"

    def _key(self, authority: Authority, algorithm: bytes, der: bytes) -> AuthorityKey | None:
        name = (authority.seq, algorithm)
        if name not in self._keys:
            self._keys[name] = open_authority(authority.certificate, der)
        return self._keys[name]

    def _life_fault(self, authority: Authority, key: AuthorityKey, spans: CertificateSpans, seq: int) -> Fault | None:
        window = validity_window(spans.validity)
        if window is None or window[0] > window[1]:
            return "audit.certificate.malformed", "has a malformed validity"
        if self._nested and (window[0] < key.not_before or window[1] > key.not_after):
            return "audit.certificate.validity", f"is valid outside the life of {authority.ca}"
        if self._destroyed.get(authority.ca, seq) < seq:
            return "audit.ca.destroyed", f"is signed by {authority.ca}, whose key was destroyed before"
        return None
