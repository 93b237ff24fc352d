"""Who is calling: the key of a client certificate, looked up among those that the ledger says are let in."""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.errors import Refused
from birthmark.model.siteevents import Role
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import SiteRecords
from birthmark.shell.api.connection import PEER

__all__ = ["Caller", "Callers"]

_KEPT = 4096
_STANDARD = b"client-cert"


@dataclass(frozen=True, slots=True)
class Caller:
    """A name in a role; a station's name is SITE/STATION. ``spki_sha256``: the key that names it, in hex."""

    name: str
    role: Role
    site: str | None
    spki_sha256: str


@dataclass(frozen=True, slots=True)
class _Certificate:
    spki_sha256: str
    not_before: datetime
    not_after: datetime


class Callers:
    """Finds the caller of a request.

    ``issuers``: certificates (DER) of the access CAs. ``proxy``: name of the caller (role ``server``) whose header
    ``header`` may name another one; the header is refused from anybody else. ``is_local``: requests without a TLS
    session come over a Unix socket that only the proxy can open.
    """

    def __init__(
        self,
        sites: SiteRecords,
        *,
        issuers: tuple[bytes, ...],
        clock: Callable[[], datetime],
        proxy: str | None = None,
        header: str = _STANDARD.decode(),
    ) -> None:
        self._sites = sites
        self._issuers = [x509.load_der_x509_certificate(der) for der in issuers]
        self._clock = clock
        self._proxy = proxy
        self._header = header.lower().encode("ascii")
        self._read: OrderedDict[bytes, _Certificate] = OrderedDict()
        self._seen: dict[str, Caller] = {}

    def of(self, scope: Mapping[str, Any], *, fresh: bool = True) -> Caller | None:
        """Return who calls, None if nobody says who he is.

        Unless ``fresh`` the answer may be of an earlier request: only for what is looked up again before anything is
        given, as ``IssueBatch`` does.

        Raises ``Refused``: ``service.header.forbidden``, ``service.header.malformed``, ``service.access.unknown``,
        ``service.access.withdrawn``, ``service.access.expired``.
        """
        forwarded = [value for name, value in scope["headers"] if name == self._header]
        if self._header != _STANDARD and any(name == _STANDARD for name, _ in scope["headers"]):
            # A proxy that was told another name passes this one on from whoever sends it.
            raise _forbidden()
        if not forwarded and PEER in scope:
            peer = scope[PEER]
            return None if peer is None else self._lookup(peer, fresh)
        if forwarded:
            self._require_proxy(scope)
            if len(forwarded) != 1:
                raise _malformed("it stands there more than once")
            return None if not forwarded[0] else self._lookup(_header_certificate(forwarded[0]), fresh)
        return None

    def forget(self, spki_sha256: str) -> None:
        """Look a caller up again at the next request: what was remembered of this key does not hold any more."""
        self._seen.pop(spki_sha256, None)

    def _require_proxy(self, scope: Mapping[str, Any]) -> None:
        if PEER not in scope and self._proxy is not None:
            return  # the Unix socket of the proxy
        peer = scope.get(PEER)
        caller = None if peer is None else self._lookup(peer, fresh=True)
        if self._proxy is None or caller is None or (caller.name, caller.role) != (self._proxy, "server"):
            raise _forbidden()

    def _lookup(self, der: bytes, fresh: bool) -> Caller:
        certificate = self._certificate(der)
        if not certificate.not_before <= self._clock() <= certificate.not_after:
            raise Refused(
                "service.access.expired",
                "the client certificate is not valid now",
                hint="Get a new certificate from the authority, or check the clock of this machine.",
                not_after=certificate.not_after.isoformat(),
            )
        if not fresh and (seen := self._seen.get(certificate.spki_sha256)) is not None:
            return seen
        record = self._sites.access(certificate.spki_sha256)
        if record is None:
            raise Refused(
                "service.access.unknown",
                "nobody with this key is let in",
                hint="Ask the authority to grant access to it; `birthmark access list` shows who has it.",
                spki_sha256=certificate.spki_sha256,
            )
        if record.withdrawn is not None:
            self._seen.pop(record.spki_sha256, None)
            raise Refused(
                "service.access.withdrawn",
                f"the access of {record.name} was withdrawn",
                hint="Ask the authority for a new certificate with a new key.",
                spki_sha256=certificate.spki_sha256,
            )
        caller = Caller(record.name, record.role, record.site, record.spki_sha256)
        self._seen[record.spki_sha256] = caller
        return caller

    def _certificate(self, der: bytes) -> _Certificate:
        """Return what counts of a certificate; it is read and its issuer is checked once."""
        found = self._read.get(der)
        if found is None:
            found = self._read[der] = self._checked(der)
            if len(self._read) > _KEPT:
                self._read.popitem(last=False)
        return found

    def _checked(self, der: bytes) -> _Certificate:
        try:
            certificate = x509.load_der_x509_certificate(der)
            spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except (*UNREADABLE, UnsupportedAlgorithm):
            raise _malformed("it is no certificate") from None
        if not any(_issued_by(certificate, issuer) for issuer in self._issuers):
            raise Refused(
                "service.access.issuer",
                "the client certificate is not signed by the access CA of this workspace",
                hint="Use the TLS client certificate that the authority made for you.",
            )
        digest = sha256(spki).hexdigest()
        return _Certificate(digest, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _header_certificate(value: bytes) -> bytes:
    """Return the certificate (DER) in a header: RFC 9440 (``:base64:``), or PEM that is percent-encoded (nginx)."""
    if value[:1] == b":" and value[-1:] == b":" and len(value) > 2:
        try:
            return base64.b64decode(value[1:-1], validate=True)
        except binascii.Error:
            raise _malformed("its base64 is broken") from None
    try:
        return x509.load_pem_x509_certificate(unquote_to_bytes(value)).public_bytes(Encoding.DER)
    except UNREADABLE:
        raise _malformed("it is neither RFC 9440 nor percent-encoded PEM") from None


def _forbidden() -> Refused:
    return Refused(
        "service.header.forbidden",
        "only the configured proxy may say whose certificate it saw",
        hint="Connect with your own client certificate and without this header.",
    )


def _malformed(reason: str) -> Refused:
    return Refused(
        "service.header.malformed",
        f"the certificate that the proxy forwards cannot be used: {reason}",
        hint="Let the proxy set the header anew, from the TLS session alone.",
        reason=reason,
    )
