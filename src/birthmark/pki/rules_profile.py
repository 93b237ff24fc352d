"""Rules over a profile itself: what can be seen before any certificate is made."""

from __future__ import annotations

from collections.abc import Iterator

from birthmark.pki.expected import attribute_oid
from birthmark.pki.lintcase import ProfileRule, RuleSet, Severity
from birthmark.pki.profile import Profile
from birthmark.pki.rules_cloud import CLOUD_KEYS, REGISTRATION_ID
from birthmark.pki.rules_matter import MATTER_PID, MATTER_VID

__all__ = ["PROFILE_RULES", "rulesets_of"]

_MATTER_OIDS = {MATTER_VID.dotted_string, MATTER_PID.dotted_string}
_ML_DSA_CERT_OCTETS = 4096


def rulesets_of(profile: Profile) -> frozenset[RuleSet]:
    """Return which tables of rules apply: by what the profile is called and which names it writes."""
    words = set(profile.name.split("-"))
    found: set[RuleSet] = {"x509"}
    if profile.kind == "end-entity":
        by_name: dict[str, RuleSet] = {"idevid": "devid", "azure": "azure", "aws": "aws"}
        found |= {ruleset for word, ruleset in by_name.items() if word in words}
    if "matter" in words or _MATTER_OIDS & {attribute_oid(attribute.type) for attribute in profile.subject}:
        found.add("matter")
    return frozenset(found)


def _no_expiry(profile: Profile) -> Iterator[str]:
    if profile.validity.days == "none":
        yield "no expiration date: plan who ends the valid paths when status information stops"


def _status(profile: Profile) -> Iterator[str]:
    if profile.kind == "end-entity" and not (profile.urls.crl or profile.urls.ocsp):
        yield "no CRL and no OCSP address: relying parties learn of a revocation only from you"


def _ml_dsa_room(profile: Profile) -> Iterator[str]:
    if profile.max_der_bytes < _ML_DSA_CERT_OCTETS and any("mldsa" in kind for kind in profile.key_algorithms):
        yield f"an ML-DSA certificate needs about {_ML_DSA_CERT_OCTETS} octets, max_der_bytes is smaller"


def _cloud_keys(profile: Profile) -> Iterator[str]:
    strange = [kind for kind in profile.key_algorithms if kind not in CLOUD_KEYS]
    if strange and rulesets_of(profile) & {"azure", "aws"}:
        yield f"key_algorithms has {', '.join(strange)}, which the cloud refuses"


def _azure_name(profile: Profile) -> Iterator[str]:
    if "azure" not in rulesets_of(profile):
        return
    names = [attribute.value for attribute in profile.subject if attribute.type == "CN"]
    if len(names) != 1:
        yield f"{len(names)} common names: the registration id is the one CN"
    rule = profile.device_serial
    if rule is not None and names:
        example = names[0].replace("{device_serial}", rule.example)
        if REGISTRATION_ID.fullmatch(example.lower()) is None:
            yield f"the example {example!r} is not a registration id"
    if rule is not None and rule.unique != "case-insensitive":
        yield "device_serial.unique must be case-insensitive: SN1A and sn1a would be one device"


def _matter_key(profile: Profile) -> Iterator[str]:
    if "matter" not in rulesets_of(profile):
        return
    if set(profile.key_algorithms) != {"p256"}:
        yield "key_algorithms must be p256 alone"
    if profile.kind != "root-ca" and set(profile.issuer_key_algorithms) != {"p256"}:
        yield "issuer_key_algorithms must be p256 alone"


def _devid_serial(profile: Profile) -> Iterator[str]:
    if "devid" not in rulesets_of(profile):
        return
    values = [attribute.value for attribute in profile.subject if attribute.type == "serialNumber"]
    if values != ["{device_serial}"]:
        yield "the subject has no serialNumber = {device_serial}"


def _client_usage(profile: Profile) -> Iterator[str]:
    purposes = profile.extended_key_usage.purposes if profile.extended_key_usage else []
    bits = profile.key_usage.bits if profile.key_usage else ["digitalSignature"]
    if {"clientAuth", "1.3.6.1.5.5.7.3.2"} & set(purposes) and "digitalSignature" not in bits:
        yield "clientAuth without digitalSignature: no TLS handshake will succeed"


PROFILE_RULES: tuple[ProfileRule, ...] = (
    ProfileRule(
        "profile.no_expiry",
        Severity.NOTICE,
        "RFC 5280, 4.1.2.5",
        "Reminder: without an expiration date the end of status information needs a plan.",
        _no_expiry,
    ),
    ProfileRule("profile.status", Severity.NOTICE, "RFC 5280, 3.3", "Where a revocation is seen.", _status),
    ProfileRule(
        "profile.ml_dsa_room",
        Severity.WARNING,
        "RFC 9881",
        "max_der_bytes has room for the key kinds.",
        _ml_dsa_room,
    ),
    ProfileRule(
        "profile.client_usage",
        Severity.ERROR,
        "RFC 8446, 4.4.2.2; RFC 5280, 4.2.1.12",
        "clientAuth goes with digitalSignature.",
        _client_usage,
    ),
    ProfileRule(
        "profile.cloud_keys",
        Severity.ERROR,
        "Azure IoT DPS; AWS IoT Core Developer Guide",
        "Only kinds of keys that the cloud accepts.",
        _cloud_keys,
        "azure",
    ),
    ProfileRule(
        "profile.azure_name",
        Severity.ERROR,
        "Azure IoT DPS, concepts-service (registration ID)",
        "One CN that is a registration id, compared without case.",
        _azure_name,
        "azure",
    ),
    ProfileRule("profile.matter_key", Severity.ERROR, "Matter Core, 6.2.2", "P-256 alone.", _matter_key, "matter"),
    ProfileRule(
        "profile.devid_serial",
        Severity.WARNING,
        "802.1AR-2018, 8.6",
        "serialNumber is the device serial.",
        _devid_serial,
        "devid",
    ),
)
"""Every rule for profiles."""
