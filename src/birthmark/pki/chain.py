"""Validates straight certificate paths (RFC 5280, section 6.1), for every key kind of this product.

``cryptography.x509.verification`` refuses Ed25519 and leaves without a subject alternative name, both of
which device identities have. This validator checks signatures over the original octets, validity, name
chaining, basic constraints, path length, key usage, name constraints and unknown critical extensions.

Out of scope, and said so: certificate policies (a path with policyConstraints, inhibitAnyPolicy or a
critical policyMappings is refused, since these could forbid it) and revocation (CRL, OCSP).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from birthmark.errors import Refused, Tampered
from birthmark.pki.certread import CertificateParts, open_parts, parse_certificate
from birthmark.pki.chainnames import ComparableName, Subtrees, comparable_name, first_forbidden_name
from birthmark.pki.sigcheck import SIGNATURES, verify_signature

__all__ = ["MAX_PATH", "Purpose", "verify_chain"]

_E = TypeVar("_E", bound=x509.ExtensionType)
Purpose = Literal["any", "client"]
MAX_PATH = 8
"""Certificates in a path, leaf and root counted."""
_MAX_SIGNATURES = 64

_KNOWN_CRITICAL = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        # Any policy is acceptable to us and nothing asks for one, so this cannot make a path invalid.
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
_POLICY_RULES = frozenset({ExtensionOID.POLICY_CONSTRAINTS, ExtensionOID.INHIBIT_ANY_POLICY})
_HINT = "Do not trust this device: compare its certificates with the record and with the chain file."


@dataclass(frozen=True, slots=True)
class _Link:
    """One certificate, with the octets that were signed and its names in comparable form."""

    parts: CertificateParts
    cert: x509.Certificate
    subject: ComparableName
    issuer: ComparableName

    @property
    def self_issued(self) -> bool:
        return self.subject == self.issuer


class _Budget:
    """Counts signature verifications, so that a crafted set of certificates cannot cost for ever."""

    def __init__(self) -> None:
        self.left = _MAX_SIGNATURES

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Tampered("chain.budget", f"more than {_MAX_SIGNATURES} signatures to try", hint=_HINT)


def verify_chain(
    leaf_der: bytes,
    intermediates_der: Sequence[bytes],
    roots_der: Sequence[bytes],
    *,
    at: datetime,
    purpose: Purpose = "any",
) -> list[x509.Certificate]:
    """Return the path leaf, …, root that is valid at ``at`` (aware), or raise ``Tampered`` ``chain.*``.

    A self-signed certificate that is itself one of the roots is a path of one; its own signature is checked.

    ``purpose="client"`` also wants what a TLS client needs: digitalSignature if there is a keyUsage, and
    clientAuth (or any) wherever there is an extendedKeyUsage.
    """
    if at.tzinfo is None:
        raise ValueError("the time of a validation must be aware")
    leaf = _load(leaf_der)
    roots = [_load(der) for der in roots_der]
    others = [_load(der) for der in intermediates_der]
    if leaf.self_issued and leaf in roots:
        _check_signature(leaf, leaf)
        _check_path([leaf], at=at, purpose=purpose)
        return [leaf.cert]
    failures: list[Tampered] = []
    budget = _Budget()

    def extend(path: list[_Link]) -> list[_Link] | None:
        for candidate in _candidates(path, [*roots, *others]):
            budget.spend()
            try:
                _check_signature(path[-1], candidate)
                longer = [*path, candidate]
                if candidate in roots:
                    _check_path(longer[::-1], at=at, purpose=purpose)
                    return longer
            except Tampered as failure:
                failures.append(failure)
                continue
            found = extend(longer) if len(longer) < MAX_PATH else None
            if found is not None:
                return found
        return None

    path = extend([leaf])
    if path is not None:
        return [link.cert for link in path]
    if failures:
        raise failures[0]
    raise Tampered(
        "chain.no_issuer",
        "no path leads from this certificate to a trusted root",
        hint="Give the intermediate certificates and the root this device was issued under.",
        issuer=leaf.cert.issuer.rfc4514_string(),
    )


@lru_cache(maxsize=64)
def _load(der: bytes) -> _Link:
    """Return a certificate, opened; the CAs of a long list are the same few again and again."""
    try:
        parts = open_parts(der)
        kind = SIGNATURES.get(parts.algorithm)
        if kind is None or parts.parameters != kind.parameters:
            raise Tampered(
                "chain.algorithm",
                f"signature algorithm {parts.algorithm} is not accepted",
                hint=_HINT,
                oid=parts.algorithm,
            )
        if not parts.same_algorithm:
            raise _malformed("its two signature algorithms differ (RFC 5280, 4.1.1.2)")
        cert = parse_certificate(parts)
    except Refused as error:
        raise _malformed(error.message) from error
    return _Link(parts, cert, comparable_name(cert.subject), comparable_name(cert.issuer))


def _malformed(reason: str) -> Tampered:
    return Tampered("chain.malformed", f"a certificate cannot be read: {reason}", hint=_HINT, reason=reason[:200])


def _candidates(path: list[_Link], pool: list[_Link]) -> list[_Link]:
    """Return the certificates that may have issued the end of the path, the likelier first."""
    child = path[-1]
    used = {link.parts.der for link in path}
    wanted = _key_id(child.cert, x509.AuthorityKeyIdentifier)
    named = [link for link in pool if link.subject == child.issuer and link.parts.der not in used]
    return sorted(named, key=lambda link: _key_id(link.cert, x509.SubjectKeyIdentifier) != wanted)


def _key_id(cert: x509.Certificate, kind: type[x509.ExtensionType]) -> bytes | None:
    value = _extension(cert, kind)
    if isinstance(value, x509.AuthorityKeyIdentifier):
        return value.key_identifier
    return value.digest if isinstance(value, x509.SubjectKeyIdentifier) else None


def _extension(cert: x509.Certificate, kind: type[_E]) -> _E | None:
    try:
        return cert.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_signature(child: _Link, issuer: _Link) -> None:
    signed = child.parts
    if not verify_signature(SIGNATURES[signed.algorithm], issuer.parts.spki, signed.signature, signed.tbs):
        raise _bad("chain.signature", child, "is not signed by the key of its issuer")


def _bad(code: str, link: _Link, what: str) -> Tampered:
    name = link.cert.subject.rfc4514_string()
    return Tampered(code, f"the certificate of {name or 'an empty name'} {what}", hint=_HINT, subject=name)


def _check_path(path: list[_Link], *, at: datetime, purpose: Purpose) -> None:
    """Check a path (root first) whose signatures and names already chain; RFC 5280, 6.1.3 to 6.1.5."""
    room = MAX_PATH
    constraints: list[Subtrees] = []
    for depth, link in enumerate(path):
        last = link is path[-1]
        _check_time(link, at)
        _check_extensions_known(link)
        if depth > 0 and (last or not link.self_issued):
            reason = first_forbidden_name(link.cert, constraints)
            if reason is not None:
                raise _bad("chain.name_constraints", link, f"has a forbidden name: {reason}")
        if last:
            break
        allowed = _check_ca(link)
        if depth > 0 and not link.self_issued:
            if room <= 0:
                raise _bad("chain.path_length", link, "is one CA more than a CA above it allows")
            room -= 1
        room = room if allowed is None else min(room, allowed)
        limits = _extension(link.cert, x509.NameConstraints)
        if limits is not None:
            constraints.append(Subtrees.of(limits))
    if purpose == "client":
        _check_client(path[1:] or path)


def _check_time(link: _Link, at: datetime) -> None:
    if at < link.cert.not_valid_before_utc:
        raise _bad("chain.not_yet_valid", link, f"is valid only from {link.cert.not_valid_before_utc:%F %T} UTC")
    if at > link.cert.not_valid_after_utc:
        raise _bad("chain.expired", link, f"was valid until {link.cert.not_valid_after_utc:%F %T} UTC")


def _check_extensions_known(link: _Link) -> None:
    for extension in link.cert.extensions:
        if (extension.critical and extension.oid not in _KNOWN_CRITICAL) or extension.oid in _POLICY_RULES:
            raise _bad("chain.extension", link, f"has the rule {extension.oid.dotted_string}, unknown here")


def _check_ca(link: _Link) -> int | None:
    """Return the path length constraint of a CA certificate; refuse what is no CA."""
    basic = _extension(link.cert, x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise _bad("chain.not_a_ca", link, "issues but is not a CA certificate")
    usage = _extension(link.cert, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise _bad("chain.key_usage", link, "issues but its key usage lacks keyCertSign")
    return basic.path_length


def _check_client(path: list[_Link]) -> None:
    usage = _extension(path[-1].cert, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise _bad("chain.purpose", path[-1], "may not sign, which a TLS client must")
    for link in path:
        extended = _extension(link.cert, x509.ExtendedKeyUsage)
        allowed = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if extended is not None and not allowed & set(extended):
            raise _bad("chain.purpose", link, "is not for TLS clients")
