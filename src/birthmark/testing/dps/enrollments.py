"""Enrolments as the service keeps them: reading a document, and showing it as the API does.

Shapes: Azure REST API specifications, Device Provisioning Services data plane (service models). Certificates go in as
text and come out as ``info`` only; a document that was read and is written back keeps them by their thumbprint.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from birthmark.testing.dps.answers import Problem, utc_now
from birthmark.testing.dps.certs import Held, read_held
from birthmark.testing.dps.symmetrickeys import read_symmetric_keys

__all__ = ["Enrollment", "Kind", "read_enrollment", "valid_id"]

Kind = Literal["individual", "group"]
_ID = re.compile(r"[A-Za-z0-9\-._:]{0,127}[A-Za-z0-9\-]")
_STATUSES = ("enabled", "disabled")
_ALLOCATIONS = ("hashed", "geoLatency", "static")
_NONE: Mapping[str, Any] = MappingProxyType({})
"""What most enrolments have none of: one for all of them."""
_KEYS = {"individual": "registrationId", "group": "enrollmentGroupId"}
_SLOTS = ("primary", "secondary")
_KEPT = (
    "deviceId",
    "iotHubHostName",
    "initialTwin",
    "capabilities",
    "optionalDeviceInformation",
    "credentialPolicyName",
)


@dataclass(frozen=True, slots=True)
class Enrollment:
    """One enrolment. ``certificates``: slot → certificate; ``references``: slot → name of a CA.

    ``tpm``: its keys as sent; ``symmetric``: slot → key (base64).
    """

    kind: Kind
    id: str
    attestation: str
    enabled: bool
    update_hub: bool
    migrate_data: bool
    allocation: str
    hubs: tuple[str, ...]
    created: str
    certificates: Mapping[str, Held] = field(default_factory=lambda: _NONE)
    references: Mapping[str, str] = field(default_factory=lambda: _NONE)
    tpm: Mapping[str, str] = field(default_factory=lambda: _NONE)
    symmetric: Mapping[str, str] = field(default_factory=lambda: _NONE)
    extra: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    etag: str = field(default_factory=lambda: f'"{uuid.uuid4().hex}"')
    updated: str = field(default_factory=utc_now)

    def shown(self) -> dict[str, Any]:
        """Return the document of the API, without the TPM's key."""
        return {
            _KEYS[self.kind]: self.id,
            **self.extra,
            "attestation": self.mechanism(secrets=False),
            "etag": self.etag,
            "provisioningStatus": "enabled" if self.enabled else "disabled",
            "reprovisionPolicy": {"updateHubAssignment": self.update_hub, "migrateDeviceData": self.migrate_data},
            "allocationPolicy": self.allocation,
            "iotHubs": list(self.hubs),
            "createdDateTimeUtc": self.created,
            "lastUpdatedDateTimeUtc": self.updated,
        }

    def mechanism(self, *, secrets: bool) -> dict[str, Any]:
        """Return the attestation mechanism; ``secrets`` shows keys of TPMs and devices as well."""
        if self.attestation == "tpm":
            return {"type": "tpm", "tpm": dict(self.tpm) if secrets else {}}
        if self.attestation == "symmetricKey":
            return {"type": "symmetricKey", "symmetricKey": dict(self.symmetric) if secrets else {}}
        if self.references:
            return {"type": "x509", "x509": {"caReferences": dict(self.references)}}
        members = {
            slot: {"certificate": None, "info": msgspec.Raw(held.info)} for slot, held in self.certificates.items()
        }
        place = "clientCertificates" if self.kind == "individual" else "signingCertificates"
        return {"type": "x509", "x509": {place: members}}


def valid_id(text: object) -> bool:
    """Say whether ``text`` can name a registration: 1 to 128 of ``A-Za-z0-9-._:``, the last a letter, digit or -."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def read_enrollment(
    kind: Kind, name: str, document: dict[str, Any], old: Enrollment | None, hubs: tuple[str, ...]
) -> Enrollment:
    """Return the enrolment a document describes, or raise ``Problem`` 400xxx. ``hubs``: those linked."""
    if not valid_id(name) or str(document.get(_KEYS[kind], name)).lower() != name.lower():
        raise Problem(400002, f"The {_KEYS[kind]} is not valid or not that of the path.")
    attestation = _object(document, "attestation")
    policy = _object(document, "reprovisionPolicy")
    wanted = _hubs(document, hubs)
    status = document.get("provisioningStatus") or "enabled"
    allocation = document.get("allocationPolicy") or "hashed"
    if status not in _STATUSES or allocation not in _ALLOCATIONS:
        raise Problem(400004, "The provisioningStatus or allocationPolicy is not supported.")
    if document.get("deviceId") is not None and (kind == "group" or not valid_id(document["deviceId"])):
        raise Problem(400002, "The deviceId is not valid.")
    return Enrollment(
        kind,
        name if old is None else old.id,
        str(attestation.get("type")),
        status == "enabled",
        _flag(policy, "updateHubAssignment"),
        _flag(policy, "migrateDeviceData"),
        allocation,
        wanted,
        utc_now() if old is None else old.created,
        extra={key: document[key] for key in _KEPT if document.get(key) is not None} or _NONE,
        **_attestation(kind, attestation, old),
    )


def _hubs(document: dict[str, Any], linked: tuple[str, ...]) -> tuple[str, ...]:
    single = document.get("iotHubHostName")  # how API versions before lists of hubs name one
    wanted = document.get("iotHubs") or ([single] if single else list(linked))
    if not isinstance(wanted, list) or not wanted or not all(one in linked for one in wanted):
        raise Problem(400003, "The enrolment names an IoT hub that is not linked.")
    return linked if tuple(wanted) == linked else tuple(wanted)


def _attestation(kind: Kind, document: dict[str, Any], old: Enrollment | None) -> dict[str, Any]:
    if document.get("type") == "tpm" and kind == "individual":
        return {"tpm": _tpm(_object(document, "tpm"), old)}
    if document.get("type") == "symmetricKey":
        return {"symmetric": read_symmetric_keys(_object(document, "symmetricKey"), old.symmetric if old else {})}
    if document.get("type") != "x509":
        raise Problem(400005, "The attestation type is not supported for this enrolment.")
    x509 = _object(document, "x509")
    if kind == "individual":
        return {"certificates": _certificates(kind, _object(x509, "clientCertificates"), old)}
    if x509.get("caReferences"):
        references = _object(x509, "caReferences")
        named = {slot: references[slot] for slot in _SLOTS if references.get(slot)}
        if not all(isinstance(name, str) for name in named.values()) or not named:
            raise Problem(400005, "A CA reference is the name of a CA certificate.")
        return {"references": named}
    return {"certificates": _certificates(kind, _object(x509, "signingCertificates"), old)}


def _certificates(kind: Kind, document: dict[str, Any], old: Enrollment | None) -> dict[str, Held]:
    found: dict[str, Held] = {}
    kept = {held.thumbprint.hex().upper(): held for held in (old.certificates.values() if old else ())}
    for slot in _SLOTS:
        member = _object(document, slot)
        if member.get("certificate") is not None:
            found[slot] = read_held(member["certificate"], keep_der=kind == "group")
        elif member:
            known = kept.get(str(_object(member, "info").get("sha256Thumbprint")))
            if known is None:
                raise Problem(400006, "The certificate is missing.")
            found[slot] = known
    if not found:
        raise Problem(400006, "An X.509 attestation needs a certificate.")
    return found


def _tpm(document: dict[str, Any], old: Enrollment | None) -> dict[str, str]:
    if not document and old is not None and old.tpm:
        return dict(old.tpm)
    keys = {name: document[name] for name in ("endorsementKey", "storageRootKey") if document.get(name) is not None}
    try:
        good = "endorsementKey" in keys and all(
            0 < len(base64.b64decode(key, validate=True)) <= 2048 for key in keys.values()
        )
    except (ValueError, TypeError):
        good = False
    if not good:
        raise Problem(400005, "A TPM attestation needs the endorsement key in base64.")
    return keys


def _object(document: dict[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Problem(400001, f"{name} is not an object.")
    return value


def _flag(document: dict[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise Problem(400001, f"{name} is not a boolean.")
    return value is not False
