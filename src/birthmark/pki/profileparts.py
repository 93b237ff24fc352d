"""The tables of a profile: one closed struct each, with the clause that speaks of it (docs/formats/profile.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import msgspec

__all__ = [
    "PURPOSES",
    "USAGE_BITS",
    "AlgorithmName",
    "BasicConstraints",
    "CertificatePolicies",
    "DeviceSerialRule",
    "ExtendedKeyUsage",
    "Extension",
    "GeneralName",
    "KeyUsage",
    "Kind",
    "LintException",
    "ProfilePart",
    "StringType",
    "SubjectAlternativeName",
    "SubjectAttribute",
    "Urls",
    "Validity",
]

Kind = Literal["end-entity", "issuing-ca", "root-ca"]
AlgorithmName = Literal["p256", "p384", "ed25519", "rsa2048", "rsa3072", "mldsa44", "mldsa65"]
StringType = Literal["utf8", "printable", "ia5"]
KeyUsageBit = Literal[
    "digitalSignature",
    "contentCommitment",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
]
USAGE_BITS: tuple[str, ...] = get_args(KeyUsageBit)
"""In the order of their bits (RFC 5280, 4.2.1.3)."""
PURPOSES: Mapping[str, str] = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "OCSPSigning": "1.3.6.1.5.5.7.3.9",
}
"""RFC 5280, 4.2.1.12."""
Oid = Annotated[
    str, msgspec.Meta(pattern=r"^([01]\.([0-9]|[123][0-9])|2\.(0|[1-9][0-9]{0,19}))(\.(0|[1-9][0-9]{0,19})){1,40}\Z")
]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class ProfilePart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every table of a profile is closed."""


class Validity(ProfilePart, frozen=True):
    """``days`` from the moment of issue, or ``"none"``: 99991231235959Z (RFC 5280, 4.1.2.5).

    notBefore lies ``backdate_minutes`` before the moment of issue, for devices whose clock is slow.
    """

    days: Annotated[int, msgspec.Meta(ge=1, le=36525)] | Literal["none"]
    backdate_minutes: Annotated[int, msgspec.Meta(ge=0, le=10080)] = 0


class SubjectAttribute(ProfilePart, frozen=True):
    """One RDN. ``type`` is a name of ``names.ATTRIBUTES`` or a dotted OID; ``value`` may hold placeholders."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    value: Text
    string: StringType | None = None
    """None: what X.520 wants (PrintableString for C and serialNumber), else UTF8String."""


class GeneralName(ProfilePart, frozen=True):
    """One entry of the subject alternative name.

    ``hardware-module`` (RFC 4108, section 5) takes ``hw_type`` (an OID or a placeholder) and ``value`` (the
    octets of hwSerialNum); ``dns``, ``uri`` and ``ip`` (an address in text, no placeholder for a device) take
    ``value`` alone.
    """

    type: Literal["hardware-module", "dns", "uri", "ip"]
    value: Text
    hw_type: Text | None = None


class SubjectAlternativeName(ProfilePart, frozen=True):
    """RFC 5280, 4.2.1.6: critical if and only if the subject is empty."""

    names: Annotated[tuple[GeneralName, ...], msgspec.Meta(min_length=1)]
    critical: bool = False


class KeyUsage(ProfilePart, frozen=True):
    """RFC 5280, 4.2.1.3."""

    bits: Annotated[tuple[KeyUsageBit, ...], msgspec.Meta(min_length=1)]
    critical: bool = True


class ExtendedKeyUsage(ProfilePart, frozen=True):
    """RFC 5280, 4.2.1.12: names of ``PURPOSES`` or dotted OIDs."""

    purposes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    critical: bool = False


class BasicConstraints(ProfilePart, frozen=True):
    """RFC 5280, 4.2.1.9."""

    ca: bool
    critical: bool = True
    path_length: Annotated[int, msgspec.Meta(ge=0, le=10)] | None = None


class CertificatePolicies(ProfilePart, frozen=True):
    """RFC 5280, 4.2.1.4, without qualifiers."""

    policies: Annotated[tuple[Oid, ...], msgspec.Meta(min_length=1)]
    critical: bool = False


class Extension(ProfilePart, frozen=True):
    """Any other extension: ``der`` is the value (what the OCTET STRING holds) in hex."""

    oid: Oid
    der: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2})+\Z", max_length=4096)]
    critical: bool = False


class Urls(ProfilePart, frozen=True):
    """Where relying parties find more: RFC 5280, 4.2.2.1 and 4.2.1.13. Empty lists leave the extension out."""

    ocsp: tuple[Text, ...] = ()
    ca_issuers: tuple[Text, ...] = ()
    crl: tuple[Text, ...] = ()


class DeviceSerialRule(ProfilePart, frozen=True):
    """What a device serial must look like (``pattern`` matches all of it) under this profile.

    ``unique`` says how two serials are compared; ``example`` stands in the specimen that is linted.
    """

    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    example: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    unique: Literal["case-sensitive", "case-insensitive"] = "case-sensitive"


class LintException(ProfilePart, frozen=True):
    """A lint finding that this profile accepts, and why."""

    code: Annotated[str, msgspec.Meta(min_length=3, max_length=120)]
    reason: Annotated[str, msgspec.Meta(min_length=10, max_length=600)]
