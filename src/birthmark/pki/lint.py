"""Lints certificates and profiles: pkilint for RFC 5280, our rules for what it does not know.

pkilint costs about 2 ms a certificate and 0.2 s to import, so it is loaded at the first use.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from birthmark.errors import Refused
from birthmark.pki.certread import name_faults, open_parts, serial_faults
from birthmark.pki.lintcase import Finding, ProfileRule, Rule, Severity, lint_malformed, open_case
from birthmark.pki.profile import Profile
from birthmark.pki.rules import RULES
from birthmark.pki.rules_cloud import CLOUD_RULES
from birthmark.pki.rules_devid import DEVID_RULES
from birthmark.pki.rules_matter import MATTER_RULES
from birthmark.pki.rules_profile import PROFILE_RULES, rulesets_of

__all__ = [
    "ALL_RULES",
    "Finding",
    "Severity",
    "lint_certificate",
    "lint_profile",
    "refuse_findings",
    "rules_table",
    "unallowed",
]

_SERIAL_FORM = Rule(
    "cert.serial.form",
    Severity.ERROR,
    "RFC 5280, 4.1.2.2",
    "Positive, 1 to 20 octets. (The other rules wait until it is.)",
    lambda _case: (),
)
_NAME_LENGTH = Rule(
    "cert.name.length",
    Severity.ERROR,
    "RFC 5280, App. A",
    "CN of 1 to 64 characters, C of 2. (The other rules wait until they are.)",
    lambda _case: (),
)
CERTIFICATE_RULES: tuple[Rule, ...] = (
    _SERIAL_FORM,
    _NAME_LENGTH,
    *RULES,
    *DEVID_RULES,
    *CLOUD_RULES,
    *MATTER_RULES,
)


def _unknown_exceptions(profile: Profile) -> Iterator[str]:
    known = {rule.code for rule in ALL_RULES}
    families = {code.partition(".")[0] for code in known}
    for exception in profile.exceptions:
        if exception.code.partition(".")[0] in families and exception.code not in known:
            yield f"an exception for {exception.code}, which is no code of ours"


_ALL_PROFILE_RULES: tuple[ProfileRule, ...] = (
    *PROFILE_RULES,
    ProfileRule(
        "profile.exception_unknown",
        Severity.ERROR,
        "docs/lint.md",
        "An exception names a code that exists.",
        _unknown_exceptions,
    ),
)
ALL_RULES: tuple[Rule | ProfileRule, ...] = (*CERTIFICATE_RULES, *_ALL_PROFILE_RULES)
"""Every rule of ours; pkilint's own are listed by ``lint_pkix_cert validations``."""


def lint_certificate(
    der: bytes,
    *,
    issuer_der: bytes,
    profile: Profile,
    device_serial: str | None = None,
    values: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Return every finding on one certificate, the worst first.

    ``issuer_der``: the certificate of the issuing CA (for a root: itself). ``device_serial`` and ``values``
    fill the profile's placeholders; a placeholder without a value is not compared. The signature is not
    looked at, so that a specimen signed by a throw-away key can be linted. Raises ``Refused``
    ``lint.malformed`` if one of the certificates cannot be read at all.
    """
    first = _first_findings(der)
    if first:
        return _sorted([*first, *_pkilint_findings(der)])
    case = open_case(der, issuer_der=issuer_der, profile=profile, device_serial=device_serial, values=values or {})
    wanted = rulesets_of(profile)
    ours = [finding for rule in CERTIFICATE_RULES if rule.ruleset in wanted for finding in rule.findings(case)]
    return _sorted([*_pkilint_findings(der), *ours])


def lint_profile(profile: Profile) -> list[Finding]:
    """Return every finding on a profile itself, the worst first (no certificate is made for it)."""
    return _sorted([finding for rule in _ALL_PROFILE_RULES for finding in rule.findings(profile)])


def unallowed(findings: Iterable[Finding], profile: Profile) -> list[Finding]:
    """Return the findings of WARNING and worse that the profile has no exception (code, reason) for."""
    allowed = profile.allowed_findings
    return [finding for finding in findings if finding.severity >= Severity.WARNING and finding.code not in allowed]


def refuse_findings(findings: Iterable[Finding], profile: Profile) -> None:
    """Return if nothing is left after the profile's exceptions, else refuse (``lint.findings``)."""
    left = unallowed(findings, profile)
    if left:
        raise Refused(
            "lint.findings",
            f"{left[0].message} ({left[0].code}, {left[0].citation})",
            hint="Mend the profile, or add an exception with the code and a reason to it.",
            codes=sorted({finding.code for finding in left}),
            profile=profile.name,
        )


def rules_table() -> str:
    """Return the Markdown table of all our rules, as it stands in docs/lint.md."""
    lines = ["| code | severity | applies to | what is wanted | citation |", "|---|---|---|---|---|"]
    for rule in sorted(ALL_RULES, key=lambda rule: rule.code):
        who = "profile" if isinstance(rule, ProfileRule) else "certificate"
        which = who if rule.ruleset == "x509" else f"{who}, {rule.ruleset}"
        lines.append(f"| `{rule.code}` | {rule.severity.name.lower()} | {which} | {rule.says} | {rule.citation} |")
    return "\n".join(lines) + "\n"


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (-finding.severity, finding.code, finding.message))


def _first_findings(der: bytes) -> list[Finding]:
    """Return the faults after which a certificate is not parsed any further."""
    try:
        parts = open_parts(der)
        names = [*name_faults(parts.subject), *name_faults(parts.issuer)]
    except Refused as error:
        raise lint_malformed(error.message) from error
    return [
        Finding(rule.code, rule.severity, message, rule.citation, "birthmark")
        for rule, messages in ((_SERIAL_FORM, serial_faults(parts)), (_NAME_LENGTH, names))
        for message in messages
    ]


def _pkilint_findings(der: bytes) -> list[Finding]:
    loader, validators = _pkilint()
    try:
        results = validators.validate(loader.load_document(der, "certificate").root)
    except (ValueError, binascii.Error) as error:
        reason = str(error)[:200]
        return [Finding("pkilint.unreadable", Severity.FATAL, reason, "X.690", "pkilint")]
    return [
        Finding(
            description.finding.code,
            Severity[description.finding.severity.name.replace("DEBUG", "INFO")],
            f"{description.message}, at {result.node.path}" if description.message else f"at {result.node.path}",
            "RFC 5280, by pkilint",
            "pkilint",
        )
        for result in results
        for description in result.finding_descriptions
    ]


@cache
def _pkilint() -> tuple[Any, Any]:
    """Return pkilint's loader and its validators for RFC 5280 certificates."""
    from pkilint import loader
    from pkilint.pkix import certificate, extension, name

    decoders = certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS)
    validators = certificate.create_pkix_certificate_validator_container(
        decoders,
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    return loader.RFC5280CertificateDocumentLoader(), validators
