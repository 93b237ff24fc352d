"""Enrolments as they are sent and as they are read.

Shapes: Azure REST API specifications, Device Provisioning Services, data plane (service models). Certificates go in as
PEM and come out as their thumbprints only. What is not ours in a record (twins, capabilities) is kept as it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from birthmark.adapters.clouds.azure_dps.uri import DpsUri
from birthmark.ports.cloud import CloudRecord, Registration, Standing

__all__ = [
    "BulkResult",
    "Enrollment",
    "Group",
    "digest",
    "enrollment_body",
    "group_body",
    "is_shown_name",
    "merged",
    "pem",
    "read_attestation",
    "read_bulk",
    "read_document",
    "read_enrollment",
    "read_enrollments",
    "read_group",
    "read_groups",
    "record_of",
    "reference_name",
    "same_policies",
]

_READ_ONLY = ("registrationState", "createdDateTimeUtc", "lastUpdatedDateTimeUtc")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_SHOWN = re.compile(r"[!-~]{1,128}", re.ASCII)
"""Ids of registrations and devices have at most 128 characters there."""
_SLOTS = ("primary", "secondary")
_REPROVISION = {"migrate": (True, True), "reset": (True, False), "never": (False, False)}


class _Info(msgspec.Struct, rename="camel"):
    sha256_thumbprint: str | None = None


class _Certificate(msgspec.Struct, rename="camel"):
    info: _Info | None = None


class _Slots(msgspec.Struct, rename="camel"):
    primary: _Certificate | None = None
    secondary: _Certificate | None = None


class _References(msgspec.Struct, rename="camel"):
    primary: str | None = None
    secondary: str | None = None


class _X509(msgspec.Struct, rename="camel"):
    client_certificates: _Slots | None = None
    signing_certificates: _Slots | None = None
    ca_references: _References | None = None


class _Tpm(msgspec.Struct, rename="camel"):
    endorsement_key: str | None = None


class _Attestation(msgspec.Struct, rename="camel"):
    type: str = ""
    x509: _X509 | None = None
    tpm: _Tpm | None = None


class _Reprovision(msgspec.Struct, rename="camel"):
    update_hub_assignment: bool = True
    migrate_device_data: bool = True


class _Shared(msgspec.Struct, rename="camel"):
    attestation: _Attestation
    etag: str | None = None
    provisioning_status: str | None = None
    reprovision_policy: _Reprovision | None = None
    allocation_policy: str | None = None
    iot_hubs: list[str] | None = None

    @property
    def enabled(self) -> bool:
        return self.provisioning_status != "disabled"


class Enrollment(_Shared, rename="camel", kw_only=True):
    """An individual enrolment, as far as it is looked at."""

    registration_id: str
    device_id: str | None = None

    @property
    def certificates(self) -> tuple[str, ...]:
        """SHA-256 (hex) of each, the primary one first."""
        return _thumbprints(None if (found := self.attestation.x509) is None else found.client_certificates)


class Group(_Shared, rename="camel", kw_only=True):
    """An enrolment group, as far as it is looked at."""

    enrollment_group_id: str

    @property
    def certificates(self) -> tuple[str, ...]:
        """SHA-256 (hex) of each signing certificate, the primary one first."""
        return _thumbprints(None if (found := self.attestation.x509) is None else found.signing_certificates)

    @property
    def references(self) -> tuple[str, ...]:
        """Names of CA certificates, the primary one first."""
        found = self.attestation.x509 and self.attestation.x509.ca_references
        return tuple(name for name in (found.primary, found.secondary) if name) if found else ()


class BulkError(msgspec.Struct, rename="camel"):
    """What became of one member of a bulk call. ``error_code``: six digits, the first three an HTTP status."""

    registration_id: str = ""
    error_code: int = 0
    error_status: str | None = None


class BulkResult(msgspec.Struct, rename="camel"):
    """What became of a bulk call; members without an error were done."""

    is_successful: bool
    errors: list[BulkError] | None = None


read_attestation = msgspec.json.Decoder(_Attestation).decode
read_bulk = msgspec.json.Decoder(BulkResult).decode
read_document = msgspec.json.Decoder(dict[str, Any]).decode
read_enrollment = msgspec.json.Decoder(Enrollment).decode
read_enrollments = msgspec.json.Decoder(list[Enrollment]).decode
read_group = msgspec.json.Decoder(Group).decode
read_groups = msgspec.json.Decoder(list[Group]).decode


def _thumbprints(slots: _Slots | None) -> tuple[str, ...]:
    members = (slots.primary, slots.secondary) if slots else ()
    told = [one.info.sha256_thumbprint or "" for one in members if one is not None and one.info is not None]
    return tuple(text.lower() if _DIGEST.fullmatch(text) else "unreadable" for text in told)


def is_shown_name(text: str) -> bool:
    """Say whether what a service gives as a name can be one, so that it may stand on a screen and in a table."""
    return _SHOWN.fullmatch(text) is not None


def pem(der: bytes) -> str:
    """Return a certificate as PEM (RFC 7468)."""
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def digest(der: bytes) -> str:
    """Return the SHA-256 (hex) of a certificate."""
    return sha256(der).hexdigest()


def reference_name(ca: str, der: bytes) -> str:
    """Return the name of a CA certificate there: renewed certificates of one CA stand beside each other."""
    return f"{ca}-{digest(der)[:16]}"


def enrollment_body(told: Registration, uri: DpsUri, endorsement: str | None = None) -> dict[str, Any]:
    """Return the individual enrolment of a device that was judged. ``endorsement``: it shows itself by its TPM.

    Who has no certificate is blocked by name: with symmetric keys that the service makes and nobody reads.
    """
    attestation: dict[str, Any] = {"type": "symmetricKey", "symmetricKey": {}}
    if endorsement is not None:
        attestation = {"type": "tpm", "tpm": {"endorsementKey": endorsement}}
    elif told.certificates:
        attestation = {"type": "x509", "x509": {"clientCertificates": _uploaded(told.certificates)}}
    return {
        "registrationId": told.device_serial,
        "deviceId": told.device_serial,
        "attestation": attestation,
        "provisioningStatus": "enabled" if told.standing == "enabled" else "disabled",
        **_policies(uri),
    }


def group_body(name: str, certificates: Sequence[bytes], uri: DpsUri) -> dict[str, Any]:
    """Return the enrolment group of an issuing CA, by its certificates or by references to them."""
    if uri.ca == "reference":
        names = [reference_name(name, der) for der in certificates]
        x509: dict[str, Any] = {"caReferences": dict(zip(_SLOTS, names, strict=False))}
    else:
        x509 = {"signingCertificates": _uploaded(certificates)}
    return {
        "enrollmentGroupId": name,
        "attestation": {"type": "x509", "x509": x509},
        "provisioningStatus": "enabled",
        **_policies(uri),
    }


def _uploaded(certificates: Sequence[bytes]) -> dict[str, Any]:
    return {slot: {"certificate": pem(der)} for slot, der in zip(_SLOTS, certificates, strict=False)}


def _policies(uri: DpsUri) -> dict[str, Any]:
    update, migrate = _REPROVISION[uri.reprovision]
    body: dict[str, Any] = {"reprovisionPolicy": {"updateHubAssignment": update, "migrateDeviceData": migrate}}
    if uri.allocation != "service":
        body["allocationPolicy"] = uri.allocation
    if uri.hubs:
        body["iotHubs"] = list(uri.hubs)
    return body


def same_policies(held: Enrollment | Group, uri: DpsUri) -> bool:
    """Say whether hubs and policies are those of the URI; what the URI leaves open may be anything."""
    policy = held.reprovision_policy or _Reprovision()
    wanted = _REPROVISION[uri.reprovision]
    moved = wanted[0] == policy.update_hub_assignment and (not wanted[0] or wanted[1] == policy.migrate_device_data)
    hubs = {hub.lower() for hub in held.iot_hubs or ()} == {hub.lower() for hub in uri.hubs} or not uri.hubs
    return moved and hubs and uri.allocation in ("service", held.allocation_policy)


def merged(held: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record that is held with what is told instead of what it says there; ``etag`` stays in it."""
    return {**{name: value for name, value in held.items() if name not in _READ_ONLY}, **body}


def record_of(held: Enrollment) -> CloudRecord:
    """Return what both sides can compare."""
    name = held.device_id or held.registration_id
    standing: Standing = "enabled" if held.enabled else "blocked"
    return CloudRecord(held.registration_id.lower(), name, standing, tuple(sorted(held.certificates)))
