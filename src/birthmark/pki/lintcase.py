"""What a lint rule sees and what it says: ``Case`` in, messages out; ``Rule`` ties them to a code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeVar

from cryptography import x509

from birthmark.errors import Refused
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.pki.keycheck import key_kind
from birthmark.pki.profile import Profile
from birthmark.pki.sigcheck import SIGNATURES

__all__ = [
    "NO_EXPIRY",
    "Case",
    "Finding",
    "ProfileRule",
    "Rule",
    "RuleSet",
    "Severity",
    "extension_of",
    "lint_malformed",
    "open_case",
]

NO_EXPIRY = b"99991231235959Z"
"""No well-defined expiration date, as GeneralizedTime (RFC 5280, 4.1.2.5)."""

RuleSet = Literal["x509", "devid", "azure", "aws", "matter"]
_T = TypeVar("_T", bound=x509.ExtensionType)


class Severity(IntEnum):
    """How bad a finding is; from WARNING on it needs a repair or an exception with a reason."""

    INFO = 1
    NOTICE = 2
    WARNING = 3
    ERROR = 4
    FATAL = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a lint found. ``source``: ``birthmark`` or ``pkilint``."""

    code: str
    severity: Severity
    message: str
    citation: str
    source: str

    def document(self) -> dict[str, str]:
        """Return the finding as a JSON-ready object."""
        return {
            "code": self.code,
            "severity": self.severity.name.lower(),
            "message": self.message,
            "citation": self.citation,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Case:
    """One certificate to judge, with its issuer, its profile and the device it is for.

    ``serial``: content octets of the serialNumber; ``not_after``: tag and content of the time;
    ``kind``/``issuer_kind``: as in ``keycheck.key_kind``, ``"?"`` for a key of no known kind.
    """

    der: bytes
    cert: x509.Certificate
    issuer: x509.Certificate
    profile: Profile
    device_serial: str | None
    values: Mapping[str, str]
    cert_serial: bytes
    not_after: tuple[int, bytes]
    spki: bytes
    issuer_spki: bytes
    kind: str
    issuer_kind: str
    signature: str

    @property
    def self_signed(self) -> bool:
        """Whether the issuer handed in is the certificate's own key and name."""
        return self.spki == self.issuer_spki and self.cert.subject == self.issuer.subject

    def value(self, kind: type[_T]) -> _T | None:
        """Return the value of an extension of the certificate, None if it is absent."""
        found = extension_of(self.cert, kind)
        return found.value if found else None

    def critical(self, kind: type[x509.ExtensionType]) -> bool:
        """Say whether the certificate has this extension, critical."""
        found = extension_of(self.cert, kind)
        return found is not None and found.critical


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule over certificates: ``says`` is the sentence for the reference page."""

    code: str
    severity: Severity
    citation: str
    says: str
    check: Callable[[Case], Iterable[str]]
    ruleset: RuleSet = "x509"

    def findings(self, case: Case) -> list[Finding]:
        """Return what this rule finds."""
        return [Finding(self.code, self.severity, message, self.citation, "birthmark") for message in self.check(case)]


@dataclass(frozen=True, slots=True)
class ProfileRule:
    """One rule over profiles, before any certificate exists."""

    code: str
    severity: Severity
    citation: str
    says: str
    check: Callable[[Profile], Iterable[str]]
    ruleset: RuleSet = "x509"

    def findings(self, profile: Profile) -> list[Finding]:
        """Return what this rule finds."""
        return [
            Finding(self.code, self.severity, message, self.citation, "birthmark") for message in self.check(profile)
        ]


def extension_of(cert: x509.Certificate, kind: type[_T]) -> x509.Extension[_T] | None:
    """Return an extension of a certificate, None if it is absent."""
    try:
        return cert.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def open_case(
    der: bytes, *, issuer_der: bytes, profile: Profile, device_serial: str | None, values: Mapping[str, str]
) -> Case:
    """Return the case; ``Refused`` ``lint.malformed`` if a certificate cannot be read at all."""
    try:
        parts, issuer_parts = open_parts(der), open_parts(issuer_der)
        cert, issuer = parse_certificate(parts), parse_certificate(issuer_parts)
    except Refused as error:
        raise lint_malformed(error.message) from error
    signature = SIGNATURES.get(parts.algorithm)
    return Case(
        der=der,
        cert=cert,
        issuer=issuer,
        profile=profile,
        device_serial=device_serial,
        values=values,
        cert_serial=parts.cert_serial,
        not_after=(parts.not_after.tag, parts.not_after.content),
        spki=parts.spki,
        issuer_spki=issuer_parts.spki,
        kind=_kind_or_unknown(parts.spki),
        issuer_kind=_kind_or_unknown(issuer_parts.spki),
        signature=signature.name if signature else parts.algorithm,
    )


def _kind_or_unknown(spki: bytes) -> str:
    try:
        return key_kind(spki)
    except Refused:
        return "?"


def lint_malformed(reason: str) -> Refused:
    """Return the refusal of what is not a certificate."""
    return Refused(
        "lint.malformed",
        f"a certificate cannot be read: {reason}",
        hint="Give certificates in DER, the one to lint and the one that issued it.",
        reason=reason[:200],
    )
