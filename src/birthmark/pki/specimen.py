"""Specimens: what is linted before anything is signed, and the check of everything that was signed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from birthmark.errors import Refused, Tampered
from birthmark.pki.algorithms import ALGORITHMS, KeyAlgorithm, spki_of
from birthmark.pki.filler import assemble, template_mismatch
from birthmark.pki.template import Template

__all__ = ["REPAIR_FROM", "FindingLike", "Lint", "check_result", "lint_specimen", "signed_certificate"]

REPAIR_FROM = 3
"""Severity (warning) from which on a finding needs an exception in the profile."""
_SPECIMEN_SERIAL = b"\x01specimen-serial"


class FindingLike(Protocol):
    """What a linter says; ``severity``: 1 info, 2 notice, 3 warning, 4 error, 5 fatal."""

    @property
    def code(self) -> str: ...

    @property
    def severity(self) -> int: ...


Lint = Callable[[bytes, bytes], Iterable[FindingLike]]
"""(certificate DER, issuer's certificate DER) → findings. The specimen's signature is by a throw-away key."""


def lint_specimen(template: Template, issuer_der: bytes | None, lint: Lint) -> tuple[bytes, tuple[str, ...]]:
    """Return a specimen (DER), signed by a throw-away key, and the codes of findings that the profile accepts.

    ``issuer_der`` is None for a root: the specimen is then its own issuer. Raises ``Refused("profile.lint")``.
    """
    subject_key = _throw_away(template.key_algorithm.name, "subject")
    issuer_key = subject_key if issuer_der is None else _throw_away(template.issuer_algorithm.name, "issuer")
    spki = spki_of(subject_key.public_key())
    rule = template.profile.device_serial
    device_serial = rule.example.encode() if rule else b""
    filler = template.filler(len(device_serial))
    tbs = filler.checked_fill(_SPECIMEN_SERIAL, device_serial, spki, template.key_algorithm.key_id(spki))
    algorithm = template.issuer_algorithm
    specimen = signed_certificate(tbs, algorithm, algorithm.signer(issuer_key), issuer_key.public_key())
    found = lint(specimen, specimen if issuer_der is None else issuer_der)
    codes = dict.fromkeys(finding.code for finding in found if finding.severity >= REPAIR_FROM)
    bad = [code for code in codes if code not in template.profile.allowed_findings]
    if bad:
        raise Refused(
            "profile.lint",
            f"a specimen of profile {template.profile.name} does not pass the lint: {', '.join(bad)}",
            hint="Mend the profile, or name the finding with a reason among its exceptions.",
            profile=template.profile.name,
            findings=bad,
        )
    return specimen, tuple(codes)


def signed_certificate(tbs: bytes, algorithm: KeyAlgorithm, sign: Callable[[bytes], bytes], public_key: Any) -> bytes:
    """Return the certificate (DER) of ``tbs`` with a signature that ``public_key`` has verified."""
    signature = sign(tbs)
    certificate = assemble(tbs, algorithm.signature_algorithm, signature)
    check_result(certificate, tbs, signature, algorithm, public_key)
    return certificate


def check_result(certificate: bytes, tbs: bytes, signature: bytes, algorithm: KeyAlgorithm, public_key: Any) -> None:
    """Return if the signature verifies and ``certificate`` reads back as ``tbs`` with it, else ``Tampered``."""
    if not algorithm.verify(public_key, signature, tbs):
        raise Tampered(
            "issuer.signature.wrong",
            "the issuing key returned a signature that its certificate does not verify; nothing was issued",
            hint="Stop: the token signs with another key than it shows, so check its objects and labels.",
            algorithm=algorithm.name,
        )
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        same = parsed.tbs_certificate_bytes == tbs and parsed.signature == signature
        spki_of(parsed.public_key())
    except (ValueError, UnsupportedAlgorithm):
        same = False
    if not same:
        raise template_mismatch("it does not read back as the certificate that was meant")


@cache
def _throw_away(algorithm: str, purpose: str) -> Any:
    """Return a key that certifies nothing. Kept per process: an RSA key takes up to a second to make."""
    return ALGORITHMS[algorithm].generate()
