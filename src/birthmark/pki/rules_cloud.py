"""What Azure DPS / IoT Hub and AWS IoT accept as a device certificate."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cryptography.x509.oid import NameOID

from birthmark.pki.lintcase import Case, Rule, Severity

__all__ = ["AZURE_SIGNATURES", "CLOUD_KEYS", "CLOUD_RULES", "REGISTRATION_ID"]

REGISTRATION_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
"""What every version of the DPS documentation allows (compared without case), and what fits a CN."""

CLOUD_KEYS = frozenset({"p256", "p384", "rsa2048", "rsa3072", "rsa4096"})
AZURE_SIGNATURES = frozenset(
    {"ecdsa-with-SHA256", "ecdsa-with-SHA384", "sha256WithRSAEncryption", "sha384WithRSAEncryption"}
)
_AWS_SIGNATURES = AZURE_SIGNATURES | {"ecdsa-with-SHA512", "sha512WithRSAEncryption"}


def _registration_id(case: Case) -> Iterator[str]:
    names = [str(attribute.value) for attribute in case.cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1:
        yield f"{len(names)} common names: the registration id is the one CN"
        return
    if len(names[0]) > 64:
        yield f"the common name has {len(names[0])} characters, a registration id by X.509 at most 64"
    elif REGISTRATION_ID.fullmatch(names[0].lower()) is None:
        yield f"the common name {names[0]!r} is not a registration id in every version of the service"


def _azure_keys(case: Case) -> Iterator[str]:
    yield from _unless(case.kind in CLOUD_KEYS, f"a key of kind {case.kind}")
    yield from _unless(case.issuer_kind in CLOUD_KEYS, f"an issuing key of kind {case.issuer_kind}")


def _azure_signature(case: Case) -> Iterator[str]:
    yield from _unless(case.signature in AZURE_SIGNATURES, f"signature algorithm {case.signature}")


def _aws_key(case: Case) -> Iterator[str]:
    yield from _unless(case.kind in CLOUD_KEYS, f"a key of kind {case.kind}")


def _aws_signature(case: Case) -> Iterator[str]:
    yield from _unless(case.signature in _AWS_SIGNATURES, f"signature algorithm {case.signature}")


def _unless(good: bool, message: str) -> Iterator[str]:
    if not good:
        yield message


_AZURE = "Azure IoT DPS, concepts-x509-attestation"
_AZURE_ID = "Azure IoT DPS, concepts-service (registration ID)"
_AWS = "AWS IoT Core Developer Guide, X.509 client certificates"
CLOUD_RULES: tuple[Rule, ...] = (
    Rule(
        "azure.registration_id",
        Severity.ERROR,
        _AZURE_ID,
        "The one CN is a registration id: letters, digits, . _ - inside, 64 characters.",
        _registration_id,
        "azure",
    ),
    Rule("azure.key", Severity.ERROR, _AZURE, "RSA or P-256/P-384, also of the issuer.", _azure_keys, "azure"),
    Rule("azure.signature", Severity.ERROR, _AZURE, "SHA-256 or SHA-384.", _azure_signature, "azure"),
    Rule("aws.key", Severity.ERROR, _AWS, "RSA of 2048 bits or more, P-256, P-384.", _aws_key, "aws"),
    Rule("aws.signature", Severity.ERROR, _AWS, "SHA-2 with RSA or ECDSA.", _aws_signature, "aws"),
)
"""Rules for profiles with the word ``azure`` or ``aws`` in their name."""
