"""Profiles: the declarative rule of what goes into a certificate (docs/formats/profile.md).

A profile is strict TOML: an unknown key, a wrong type or a rule that contradicts another one is
``Misconfigured("profile.*")`` and names the key. It says nothing about one device or one issuer: those come
in when a template is compiled from it.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from functools import cache
from importlib import resources
from typing import Annotated

import msgspec

from birthmark.errors import Misconfigured
from birthmark.pki.names import DOTTED_OID, PLACEHOLDER, attribute_type
from birthmark.pki.profileparts import (
    PURPOSES,
    AlgorithmName,
    BasicConstraints,
    CertificatePolicies,
    DeviceSerialRule,
    ExtendedKeyUsage,
    Extension,
    GeneralName,
    KeyUsage,
    Kind,
    LintException,
    ProfilePart,
    SubjectAlternativeName,
    SubjectAttribute,
    Urls,
    Validity,
)

__all__ = [
    "PROFILE_DECODER",
    "BasicConstraints",
    "CertificatePolicies",
    "DeviceSerialRule",
    "ExtendedKeyUsage",
    "Extension",
    "GeneralName",
    "KeyUsage",
    "LintException",
    "Profile",
    "SubjectAlternativeName",
    "SubjectAttribute",
    "Urls",
    "Validity",
    "check_rules",
    "load_preset",
    "parse_profile",
    "preset_names",
]


class Profile(ProfilePart, frozen=True, kw_only=True):
    """One kind of certificate. ``None`` for an extension means that it is absent."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")]
    kind: Kind
    description: Annotated[str, msgspec.Meta(max_length=400)] = ""
    key_algorithms: Annotated[tuple[AlgorithmName, ...], msgspec.Meta(min_length=1)]
    issuer_key_algorithms: tuple[AlgorithmName, ...] = ()
    """Empty: any."""
    validity: Validity
    subject: tuple[SubjectAttribute, ...] = ()
    subject_alternative_name: SubjectAlternativeName | None = None
    basic_constraints: BasicConstraints | None = None
    key_usage: KeyUsage | None = None
    extended_key_usage: ExtendedKeyUsage | None = None
    ski: bool
    aki: bool
    certificate_policies: CertificatePolicies | None = None
    urls: Urls = Urls()
    extensions: tuple[Extension, ...] = ()
    device_serial: DeviceSerialRule | None = None
    max_der_bytes: Annotated[int, msgspec.Meta(ge=200, le=65000)] = 16000
    exceptions: tuple[LintException, ...] = ()

    @property
    def is_ca(self) -> bool:
        """Whether certificates of this profile may sign certificates."""
        return self.basic_constraints is not None and self.basic_constraints.ca

    @property
    def allowed_findings(self) -> frozenset[str]:
        """Codes of the lint findings that ``exceptions`` accepts."""
        return frozenset(exception.code for exception in self.exceptions)

    def canonical_json(self) -> bytes:
        """Return one JSON object: every key, ascending, no white space, UTF-8."""
        return msgspec.json.encode(self, order="sorted")

    def profile_hash(self) -> bytes:
        """Return the SHA-256 of the canonical JSON: comments and layout of the file do not count."""
        return hashlib.sha256(self.canonical_json()).digest()

    def texts(self) -> tuple[str, ...]:
        """Return every text that may hold placeholders."""
        san = self.subject_alternative_name.names if self.subject_alternative_name else []
        return (
            *(attribute.value for attribute in self.subject),
            *(name.value for name in san),
            *(name.hw_type for name in san if name.hw_type is not None),
            *self.urls.ocsp,
            *self.urls.ca_issuers,
            *self.urls.crl,
        )

    def placeholders(self) -> frozenset[str]:
        """Return the names of the values a template of this profile needs, ``device_serial`` left out."""
        found = {name for text in self.texts() for name in PLACEHOLDER.findall(text)}
        return frozenset(found - {"device_serial"})


_TABLES: dict[str, type[ProfilePart]] = {
    "$": Profile,
    "$.validity": Validity,
    "$.subject[]": SubjectAttribute,
    "$.subject_alternative_name": SubjectAlternativeName,
    "$.subject_alternative_name.names[]": GeneralName,
    "$.basic_constraints": BasicConstraints,
    "$.key_usage": KeyUsage,
    "$.extended_key_usage": ExtendedKeyUsage,
    "$.certificate_policies": CertificatePolicies,
    "$.urls": Urls,
    "$.extensions[]": Extension,
    "$.device_serial": DeviceSerialRule,
    "$.exceptions[]": LintException,
}
PROFILE_DECODER = msgspec.json.Decoder(Profile)
"""Made here and now: msgspec learns a type when it is first asked for it, and crashes if two threads are first."""
_INDEX = re.compile(r"\[(?:[0-9]+|\.\.\.)\]")
_UNKNOWN = re.compile(r"unknown field `(?P<key>.*?)`(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_MAX_OCTETS = 64 * 1024
_BUILT_IN = {f"2.5.29.{last}" for last in (14, 15, 17, 19, 31, 32, 35, 37)} | {"1.3.6.1.5.5.7.1.1"}


def parse_profile(toml: bytes) -> Profile:
    """Return the profile in ``toml`` (UTF-8, at most 64 KiB).

    Raises ``Misconfigured``: ``profile.toml`` (not TOML), ``profile.key.unknown``, ``profile.value``,
    ``profile.rule`` (keys that contradict each other; fact ``key``).
    """
    if len(toml) > _MAX_OCTETS:
        raise _bad_toml("it is larger than 64 KiB")
    try:
        tables = msgspec.toml.decode(toml)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _bad_toml(str(error)) from error
    try:
        profile = msgspec.convert(tables, Profile)
    except msgspec.ValidationError as error:
        raise _wrong_value(str(error)) from error
    check_rules(profile)
    return profile


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that come with the package, ascending."""
    files = resources.files(__package__).joinpath("presets").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


@cache
def load_preset(name: str) -> Profile:
    """Return a preset; ``Misconfigured("profile.preset.unknown")`` if there is none of that name."""
    if name not in preset_names():
        raise Misconfigured(
            "profile.preset.unknown",
            f"there is no preset {name[:60]!r}",
            hint=f"Use one of {', '.join(preset_names())}, or the path of a profile file.",
            presets=list(preset_names()),
        )
    return parse_profile(resources.files(__package__).joinpath("presets", f"{name}.toml").read_bytes())


def _bad_toml(reason: str) -> Misconfigured:
    return Misconfigured(
        "profile.toml",
        f"the profile is not TOML: {reason}",
        hint="Mend the file at the place named; a preset is a good start.",
        reason=reason,
    )


def _wrong_value(message: str) -> Misconfigured:
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        return Misconfigured(
            "profile.value",
            f"the profile has a wrong or missing value: {message}",
            hint="Mend the key named after the $ sign; docs/formats/profile.md lists types and limits.",
            reason=message,
        )
    path = unknown["path"] or "$"
    allowed = sorted(_TABLES.get(_INDEX.sub("[]", path), Profile).__struct_fields__)
    return Misconfigured(
        "profile.key.unknown",
        f"the profile has an unknown key {unknown['key']!r} at {path}",
        hint=f"Allowed there: {', '.join(allowed)}.",
        key=unknown["key"],
        path=path,
        allowed=allowed,
    )


def _broken_rule(key: str, reason: str) -> Misconfigured:
    return Misconfigured(
        "profile.rule",
        f"the profile contradicts itself at {key}: {reason}",
        hint="Change this key or the one it contradicts.",
        key=key,
        reason=reason,
    )


def check_rules(profile: Profile) -> None:
    """Return if no key contradicts another; ``Misconfigured("profile.rule")``."""
    for check in (_check_kind, _check_usages, _check_names, _check_device_serial, _check_lists):
        check(profile)


def _check_kind(profile: Profile) -> None:
    constraints, usage = profile.basic_constraints, profile.key_usage
    if constraints is not None and constraints.path_length is not None and not constraints.ca:
        raise _broken_rule("basic_constraints.path_length", "only a CA has one (RFC 5280, 4.2.1.9)")
    if profile.kind == "end-entity":
        if usage is not None and "keyCertSign" in usage.bits and not profile.is_ca:
            raise _broken_rule("key_usage.bits", "keyCertSign without ca = true (RFC 5280, 4.2.1.9)")
        if not profile.aki:
            raise _broken_rule("aki", "only a root may go without (RFC 5280, 4.2.1.1)")
        return
    if constraints is None or not constraints.ca or not constraints.critical:
        raise _broken_rule("basic_constraints", "a CA has it critical with ca = true (RFC 5280, 4.2.1.9)")
    if usage is None or "keyCertSign" not in usage.bits:
        raise _broken_rule("key_usage.bits", "a CA has keyCertSign (RFC 5280, 4.2.1.3)")
    if not profile.ski:
        raise _broken_rule("ski", "a CA has a subject key identifier (RFC 5280, 4.2.1.2)")
    if profile.kind == "issuing-ca" and not profile.aki:
        raise _broken_rule("aki", "only a root may go without (RFC 5280, 4.2.1.1)")
    if not profile.subject:
        raise _broken_rule("subject", "a CA has a name (RFC 5280, 4.1.2.6)")


def _check_usages(profile: Profile) -> None:
    bits = set(profile.key_usage.bits) if profile.key_usage else set()
    if bits & {"encipherOnly", "decipherOnly"} and "keyAgreement" not in bits:
        raise _broken_rule("key_usage.bits", "encipherOnly and decipherOnly need keyAgreement (RFC 5280, 4.2.1.3)")
    signing_only = [name for name in profile.key_algorithms if name.startswith(("mldsa", "ed"))]
    forbidden = bits & {"keyEncipherment", "dataEncipherment", "keyAgreement", "encipherOnly", "decipherOnly"}
    if signing_only and forbidden:
        raise _broken_rule(
            "key_usage.bits", f"{signing_only[0]} keys only sign (RFC 9881, 5 and RFC 9295): no {sorted(forbidden)[0]}"
        )
    if "keyEncipherment" in bits and not all(name.startswith("rsa") for name in profile.key_algorithms):
        raise _broken_rule("key_usage.bits", "keyEncipherment is for RSA keys alone (RFC 8813, section 3)")


def _check_names(profile: Profile) -> None:
    san = profile.subject_alternative_name
    if not profile.subject and (san is None or not san.critical):
        raise _broken_rule("subject_alternative_name", "an empty subject needs a critical one (RFC 5280, 4.1.2.6)")
    for name in san.names if san else ():
        if (name.type == "hardware-module") != (name.hw_type is not None):
            raise _broken_rule("subject_alternative_name.names.hw_type", "hardware-module, and only it, has one")
    for attribute in profile.subject:
        if attribute_type(attribute.type) is None:
            raise _broken_rule("subject.type", f"{attribute.type!r} is neither a known name nor an OID")
    for purpose in profile.extended_key_usage.purposes if profile.extended_key_usage else ():
        if purpose not in PURPOSES and DOTTED_OID.fullmatch(purpose) is None:
            raise _broken_rule("extended_key_usage.purposes", f"{purpose!r} is neither a known name nor an OID")
    for text in profile.texts():
        if re.search(r"[{}]", PLACEHOLDER.sub("", text)):
            raise _broken_rule("placeholder", f"{text!r} holds a brace that is not part of a {{name}}")
    elsewhere = (*profile.urls.ocsp, *profile.urls.ca_issuers, *profile.urls.crl)
    if any("{device_serial}" in text for text in elsewhere):
        raise _broken_rule("urls", "an URL never names one device")


def _check_device_serial(profile: Profile) -> None:
    rule = profile.device_serial
    used = any("{device_serial}" in text for text in profile.texts())
    if profile.kind != "end-entity":
        if used or rule is not None:
            raise _broken_rule("device_serial", "a CA is not a device")
        return
    if not used:
        raise _broken_rule("subject", "no {device_serial} in subject or subject_alternative_name names the device")
    if rule is None:
        raise _broken_rule("device_serial", "an end-entity profile says what a device serial looks like")
    try:
        with warnings.catch_warnings():
            # What Python would only warn about will mean something else in a later version of it.
            warnings.simplefilter("error")
            pattern = re.compile(rule.pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise _broken_rule("device_serial.pattern", f"not a regular expression: {error}") from error
    if pattern.fullmatch(rule.example) is None or not rule.example.isascii():
        raise _broken_rule("device_serial.example", "the pattern does not match it")


def _check_lists(profile: Profile) -> None:
    san = profile.subject_alternative_name
    policies = profile.certificate_policies
    lists: dict[str, list[str]] = {
        "key_algorithms": list(profile.key_algorithms),
        "key_usage.bits": list(profile.key_usage.bits) if profile.key_usage else [],
        "extended_key_usage.purposes": list(profile.extended_key_usage.purposes) if profile.extended_key_usage else [],
        "certificate_policies.policies": list(policies.policies) if policies else [],
        "extensions.oid": [extension.oid for extension in profile.extensions],
        "exceptions.code": [exception.code for exception in profile.exceptions],
        "subject.type": [attribute.type for attribute in profile.subject if attribute.type in ("CN", "serialNumber")],
        "subject_alternative_name.names": [repr(name) for name in san.names] if san else [],
    }
    built_in = next((extra.oid for extra in profile.extensions if extra.oid in _BUILT_IN), None)
    if built_in is not None:
        raise _broken_rule("extensions.oid", f"{built_in} has a table of its own in this file")
    for key, values in lists.items():
        if len(set(values)) != len(values):
            raise _broken_rule(key, "an entry stands there twice")
