"""Which CAs may have signed for a vendor: paths from a chip's certificate to a root that we trust for that vendor.

A CA of a vendor stands on record under ``vendor:NAME:…``, a name that no CA of ours can have: a vendor vouches for its
own chips and for nothing else here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import Refused, Tampered
from birthmark.model.records import CaRecord
from birthmark.pki.certread import open_parts
from birthmark.pki.chain import verify_chain
from birthmark.wire.preload import VendorItem

__all__ = ["NewCa", "VendorPaths", "vendor_prefix"]

_NAME_DIGITS = 12
_MAX_NEW = 256
"""CAs that one manifest may bring."""


@dataclass(frozen=True, slots=True)
class NewCa:
    """A CA of the vendor that comes on record with the manifest. ``issuer``: None for a root."""

    ca: str
    issuer: str | None
    certificate: bytes


def vendor_prefix(vendor: str) -> str:
    """Return how the names of a vendor's CAs begin."""
    return f"vendor:{vendor}:"


class VendorPaths:
    """Finds and checks paths. ``roots`` (DER) are trusted for this vendor; ``known`` are the CAs on record.

    ``new`` are those that the paths went through and that are not on record, each after the one above it.
    """

    def __init__(self, vendor: str, roots: Sequence[bytes], known: Sequence[CaRecord], now: datetime) -> None:
        self._prefix = vendor_prefix(vendor)
        self._vendor = vendor
        self._now = now
        self._records = {record.ca: record for record in known}
        self._names = {bytes(record.certificate): record.ca for record in known}
        self._pool: dict[bytes, None] = dict.fromkeys(
            bytes(record.certificate) for record in known if record.ca.startswith(self._prefix)
        )
        self._roots = [*dict.fromkeys([*roots, *self._own_roots()])]
        self._by_issuer: dict[bytes, tuple[str, list[bytes]]] = {}
        self.new: dict[str, NewCa] = {}

    def _own_roots(self) -> list[bytes]:
        """Return the roots above the CAs that we delegated to this vendor; what is between goes into the pool."""
        roots = []
        for name, record in self._records.items():
            above = self._records.get(record.issuer or "")
            if not name.startswith(self._prefix) or above is None or above.ca.startswith(self._prefix):
                continue
            while above.issuer is not None and above.issuer in self._records and above.issuer != above.ca:
                self._pool[bytes(above.certificate)] = None
                above = self._records[above.issuer]
            roots.append(bytes(above.certificate))
        return roots

    def add(self, certificates: Sequence[bytes]) -> None:
        """Let certificates of CAs be looked at as well; nothing is trusted by that."""
        self._pool.update(dict.fromkeys(certificates))
        if len(self._pool) > _MAX_NEW:
            raise Refused(
                "preload.authorities",
                f"this manifest brings more than {_MAX_NEW} CA certificates",
                hint="Split it: chips of one lot are signed by a few CAs.",
                vendor=self._vendor,
            )

    def issuer_of(self, item: VendorItem) -> tuple[str, x509.Certificate]:
        """Return the name of the CA that signed a chip's certificate, and that certificate, its path verified.

        Raises ``Tampered("chain.*")``; ``Refused``: ``preload.issuer`` (the path is good, but the CA is not one of the
        vendor), ``preload.ca`` (a CA above it would be a finding of every audit).
        """
        self.add(item.above)
        issuer_name = _issuer_name(item.certificate)
        known = self._by_issuer.get(issuer_name)
        if known is not None:
            name, above = known
            try:
                path = verify_chain(item.certificate, above[:-1], above[-1:], at=self._now)
                return name, path[0]
            except Tampered:
                pass  # another CA of the same name, or a bad certificate: the whole search tells
        path = verify_chain(item.certificate, list(self._pool), self._roots, at=self._now)
        if len(path) < 2:
            raise self._no_issuer(item, "it is a root itself")
        above = [certificate.public_bytes(Encoding.DER) for certificate in path[1:]]
        name = self._named(path[1:], above, item)
        self._by_issuer[issuer_name] = (name, above)
        return name, path[0]

    def _named(self, cas: Sequence[x509.Certificate], ders: Sequence[bytes], item: VendorItem) -> str:
        names = [self._names.get(der) or f"{self._prefix}{sha256(der).hexdigest()[:_NAME_DIGITS]}" for der in ders]
        if not names[0].startswith(self._prefix):
            raise self._no_issuer(item, f"it was signed by {names[0]}")
        for certificate, above in pairwise([*cas, cas[-1]]):
            _require_ca(certificate, above)
        for level in reversed(range(len(names))):
            if ders[level] not in self._names:
                issuer = names[level + 1] if level + 1 < len(names) else None
                self.new[names[level]] = NewCa(names[level], issuer, ders[level])
                self._names[ders[level]] = names[level]
        return names[0]

    def _no_issuer(self, item: VendorItem, reason: str) -> Refused:
        return Refused(
            "preload.issuer",
            f"the certificate in {item.where} is none that {self._vendor} may have made: {reason}",
            hint="Nothing of this file was taken in. Only CAs of the vendor sign what it preloads.",
            where=item.where,
            vendor=self._vendor,
        )


def _issuer_name(certificate: bytes) -> bytes:
    try:
        return open_parts(certificate).issuer.whole
    except Refused as problem:
        raise Tampered(
            "chain.malformed",
            f"a certificate cannot be read: {problem.message}",
            hint="Ask the vendor for the manifest again; nothing of it was taken in.",
        ) from None


def _require_ca(certificate: x509.Certificate, above: x509.Certificate) -> None:
    """Refuse a CA certificate that the audit would find fault with for ever."""
    basic = _critical(certificate, x509.BasicConstraints)
    usage = _critical(certificate, x509.KeyUsage)
    nested = (
        certificate.not_valid_before_utc >= above.not_valid_before_utc
        and certificate.not_valid_after_utc <= above.not_valid_after_utc
    )
    if basic is not True or usage is None or not nested:
        subject = certificate.subject.rfc4514_string()
        raise Refused(
            "preload.ca",
            f"the CA {subject} lacks critical basicConstraints or keyUsage, or outlives the CA above it",
            hint="Ask the vendor for certificates as RFC 5280, 4.2.1.9 and 4.2.1.3 want them.",
            subject=subject,
        )


def _critical(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> bool | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).critical
    except x509.ExtensionNotFound:
        return None
