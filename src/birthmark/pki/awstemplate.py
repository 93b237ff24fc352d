"""Provisioning templates of AWS IoT, read before AWS reads them: what is wrong in one fails each device by itself.

Source: AWS IoT developer guide, "Provisioning templates" and "Just-in-time provisioning": a template is a JSON document
of at most 10,240 characters with ``Parameters`` and ``Resources``; a just-in-time template is given what the subject of
the device's certificate says and nothing else, and a parameter that the subject lacks fails the device.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from birthmark.errors import Misconfigured, Refused
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.names import attribute_type
from birthmark.pki.profile import Profile

__all__ = [
    "BULK_PARAMETERS",
    "ProvisioningTemplate",
    "bulk_template",
    "just_in_time_template",
    "parse_aws_template",
]

_LONGEST, _DEEPEST = 10_240, 24
_SUBJECT = "AWS::IoT::Certificate::"
_ID = f"{_SUBJECT}Id"
_SUBJECT_OIDS: Mapping[str, str] = {
    "CommonName": "2.5.4.3",
    "SerialNumber": "2.5.4.5",
    "Country": "2.5.4.6",
    "StateName": "2.5.4.8",
    "Organization": "2.5.4.10",
    "OrganizationalUnit": "2.5.4.11",
    "DistinguishedNameQualifier": "2.5.4.46",
}
BULK_PARAMETERS = ("ThingName", "SerialNumber", "CertificatePem", "CACertificatePem")
"""What a line of a bulk task says of a device; the first two are its device serial."""
_THING, _CERTIFICATE, _POLICY = "AWS::IoT::Thing", "AWS::IoT::Certificate", "AWS::IoT::Policy"
_HOW = ("DO_NOTHING", "REPLACE", "FAIL")
_OVERRIDES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    _THING: {"AttributePayload": (*_HOW, "MERGE"), "ThingTypeName": _HOW, "ThingGroups": (*_HOW, "MERGE")},
    _CERTIFICATE: {"Status": _HOW},
    _POLICY: {},
}
_PROPERTIES: Mapping[str, frozenset[str]] = {
    _THING: frozenset({"ThingName", "AttributePayload", "ThingTypeName", "ThingGroups", "BillingGroup"}),
    _CERTIFICATE: frozenset(
        {
            "CertificateSigningRequest",
            "CertificateId",
            "CertificatePem",
            "CACertificatePem",
            "CertificateMode",
            "Status",
        }
    ),
    _POLICY: frozenset({"PolicyName", "PolicyDocument"}),
}
_SECTIONS = frozenset({"Parameters", "Resources", "Mappings", "DeviceConfiguration"})
_SUB = re.compile(r"\$\{([^}!]{1,200})\}")


@dataclass(frozen=True, slots=True)
class ProvisioningTemplate:
    """A template whose form is right. ``defaults``: the parameters that need no value; ``used``: those that are used.

    ``overrides``: of its thing; empty if it makes none.
    """

    text: str
    parameters: frozenset[str]
    defaults: frozenset[str]
    used: frozenset[str]
    kinds: frozenset[str]
    overrides: Mapping[str, str]
    activates: bool
    """Its certificate is ``ACTIVE`` afterwards, or the request fails, also if the certificate is there already."""

    def require_just_in_time(self) -> None:
        """Return if AWS can fill it from a certificate alone; ``Misconfigured("cloud.aws.template.parameter")``."""
        known = {_ID, *(f"{_SUBJECT}{name}" for name in _SUBJECT_OIDS)}
        self._require_values(known, "a certificate's subject")
        if _CERTIFICATE not in self.kinds:
            raise _malformed("it has no resource AWS::IoT::Certificate, so the certificate would not be let in")

    def require_bulk(self) -> None:
        """Return if a line of a bulk task gives all that it needs, and a thing that is there already fails.

        ``Misconfigured``: ``cloud.aws.template.parameter``, ``cloud.aws.template.overwrites``,
        ``cloud.aws.template.status``.
        """
        self._require_values(BULK_PARAMETERS, "a line of a bulk task")
        if not {_THING, _CERTIFICATE} <= self.kinds:
            raise _malformed("a bulk template needs a resource AWS::IoT::Thing and one AWS::IoT::Certificate")
        if "FAIL" not in self.overrides.values():
            raise Misconfigured(
                "cloud.aws.template.overwrites",
                "the template would take over a thing that is there already: no OverrideSettings of it is FAIL",
                hint="Set OverrideSettings of the thing to FAIL: a serial that is there twice is seen and compared.",
            )

        if not self.activates:
            raise Misconfigured(
                "cloud.aws.template.status",
                "a certificate that is there already and blocked would stay so, and the task would report it as made",
                hint='Give the certificate "Status": "ACTIVE" and "OverrideSettings": {"Status": "REPLACE"}.',
            )

    def require_fleet(self) -> None:
        """Return if a device that asks with a claim gets a certificate by it: ``Misconfigured("cloud.aws.template")``.

        The device itself gives the other parameters, so they are not known here.
        """
        if _ID not in self.used or _CERTIFICATE not in self.kinds:
            raise _malformed(f"a fleet template ties the certificate that AWS made by {_ID}, and this one does not")

    def require_profile(self, profile: Profile) -> None:
        """Return if certificates of ``profile`` have what it names; ``Misconfigured("cloud.aws.template.profile")``."""
        types = {found.oid for one in profile.subject if (found := attribute_type(one.type)) is not None}
        lacking = self._lacking(types)
        if lacking:
            raise Misconfigured(
                "cloud.aws.template.profile",
                f"the template names {lacking[0]}, which certificates of the profile {profile.name} have not",
                hint="Take the parameter out of the template, give it a Default, or add the attribute to the profile.",
                parameter=lacking[0],
                profile=profile.name,
            )

    def require_certificate(self, device_serial: str, der: bytes) -> None:
        """Return if this certificate (DER) has all that it names; ``Refused("cloud.aws.template.subject")``."""
        lacking = self._lacking(_subject_types(der))
        if lacking:
            raise Refused(
                "cloud.aws.template.subject",
                f"the template names {lacking[0]}, and the certificate of {device_serial[:140]} has no such attribute",
                hint="AWS would fail this device when it first connects: change the template or the profile.",
                parameter=lacking[0],
                device_serial=device_serial[:140],
            )

    def _lacking(self, types: Collection[str]) -> list[str]:
        needed = self.parameters - self.defaults
        return [
            f"{_SUBJECT}{name}"
            for name, oid in _SUBJECT_OIDS.items()
            if f"{_SUBJECT}{name}" in needed and oid not in types
        ]

    def _require_values(self, known: Collection[str], giver: str) -> None:
        strange = sorted(self.parameters - self.defaults - set(known))
        if strange:
            raise Misconfigured(
                "cloud.aws.template.parameter",
                f"the template needs the parameter {strange[0][:120]}, which {giver} does not give",
                hint=f"Give it a Default, or use one of {', '.join(sorted(known))}.",
                parameter=strange[0][:120],
            )


def parse_aws_template(text: str) -> ProvisioningTemplate:
    """Return the template in ``text``; ``Misconfigured("cloud.aws.template")`` says what is wrong in it."""
    if len(text) > _LONGEST:
        raise _malformed(f"it has {len(text)} characters, AWS takes {_LONGEST}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("it is no JSON") from None
    if not isinstance(document, dict) or not set(document) <= _SECTIONS:
        raise _malformed(f"it is no object of {', '.join(sorted(_SECTIONS))}")
    parameters, resources = document.get("Parameters", {}), document.get("Resources")
    if not isinstance(parameters, dict) or not all(_is_parameter(one) for one in parameters.values()):
        raise _malformed("a parameter has the Type String and may have a Default, and nothing else")
    if not isinstance(resources, dict) or not resources:
        raise _malformed("it has no Resources")
    used: set[str] = set()
    for name, one in resources.items():
        _check_resource(str(name)[:80], one)
        used |= set(_references(one["Properties"]))
    kinds = [one["Type"] for one in resources.values()]
    if kinds.count(_THING) > 1 or kinds.count(_CERTIFICATE) > 1:
        raise _malformed("it has more than one thing or certificate")
    used |= set(_references(document.get("DeviceConfiguration", {})))
    undeclared = sorted(used - set(parameters))
    if undeclared:
        raise _malformed(f"it refers to {undeclared[0][:120]}, which is none of its Parameters")
    thing: dict[str, Any] = next((one for one in resources.values() if one["Type"] == _THING), {})
    return ProvisioningTemplate(
        text=text,
        parameters=frozenset(parameters),
        defaults=frozenset(name for name, one in parameters.items() if "Default" in one),
        used=frozenset(used),
        kinds=frozenset(kinds),
        overrides=thing.get("OverrideSettings", {}),
        activates=any(_activates(one) for one in resources.values() if one["Type"] == _CERTIFICATE),
    )


def _activates(certificate: Mapping[str, Any]) -> bool:
    status, how = certificate["Properties"].get("Status", "ACTIVE"), certificate.get("OverrideSettings", {})
    return str(status).upper() == "ACTIVE" and how.get("Status") in ("REPLACE", "FAIL")


def just_in_time_template(policy: str, thing_type: str | None, thing_group: str | None) -> str:
    """Return a template that names a thing by the common name and gives its certificate a policy."""
    name, known_as = f"{_SUBJECT}CommonName", _ID
    certificate = {"Type": _CERTIFICATE, "Properties": {"CertificateId": {"Ref": known_as}, "Status": "ACTIVE"}}
    return _template((name, known_as), name, certificate, policy, _thing_parts(thing_type, thing_group), {})


def bulk_template(policy: str, thing_type: str | None, thing_group: str | None) -> str:
    """Return a template that makes a thing with its certificate and policy, and fails if the thing is there."""
    given = {name: {"Ref": name} for name in ("CertificatePem", "CACertificatePem")}
    certificate = {
        "Type": _CERTIFICATE,
        "Properties": {**given, "Status": "ACTIVE"},
        "OverrideSettings": {"Status": "REPLACE"},
    }
    fail = {"AttributePayload": "FAIL", "ThingTypeName": "FAIL", "ThingGroups": "FAIL"}
    names = ("ThingName", "CertificatePem", "CACertificatePem")
    return _template(names, "ThingName", certificate, policy, _thing_parts(thing_type, thing_group), fail)


def _thing_parts(thing_type: str | None, thing_group: str | None) -> dict[str, Any]:
    parts: dict[str, Any] = {} if thing_type is None else {"ThingTypeName": thing_type}
    return parts if thing_group is None else {**parts, "ThingGroups": [thing_group]}


def _template(
    names: tuple[str, ...],
    thing_name: str,
    certificate: Mapping[str, object],
    policy: str,
    more: Mapping[str, object],
    overrides: Mapping[str, str],
) -> str:
    thing: dict[str, Any] = {"Type": _THING, "Properties": {"ThingName": {"Ref": thing_name}, **more}}
    if overrides:
        thing["OverrideSettings"] = dict(overrides)
    return json.dumps(
        {
            "Parameters": {name: {"Type": "String"} for name in names},
            "Resources": {
                "thing": thing,
                "certificate": dict(certificate),
                "policy": {"Type": _POLICY, "Properties": {"PolicyName": policy}},
            },
        },
        sort_keys=True,
    )


def _is_parameter(one: object) -> bool:
    if not isinstance(one, dict) or not set(one) <= {"Type", "Default"}:
        return False
    return one.get("Type") == "String" and isinstance(one.get("Default", ""), str)


def _check_resource(name: str, one: Any) -> None:
    kind = one.get("Type") if isinstance(one, dict) else None
    if (
        not isinstance(kind, str)
        or kind not in _OVERRIDES
        or not set(one) <= {"Type", "Properties", "OverrideSettings"}
    ):
        raise _malformed(f"the resource {name!a} is none of {', '.join(_OVERRIDES)}")
    properties, settings = one.get("Properties"), one.get("OverrideSettings", {})
    if not isinstance(properties, dict) or not set(properties) <= _PROPERTIES[kind]:
        raise _malformed(f"the resource {name!a} has a property that {kind} has not, or none")
    allowed = _OVERRIDES[kind]
    if not isinstance(settings, dict) or not all(how in allowed.get(key, ()) for key, how in settings.items()):
        raise _malformed(f"the resource {name!a} has OverrideSettings that AWS does not know")
    if kind == _POLICY and len(properties) != 1:
        raise _malformed(f"the policy {name!a} has PolicyName or PolicyDocument, and not both")


def _references(node: Any, depth: int = 0) -> Iterator[str]:
    """Yield the parameters that a part refers to."""
    if depth > _DEEPEST:
        raise _malformed("it is nested too deeply")
    if isinstance(node, list):
        for one in node:
            yield from _references(one, depth + 1)
    if not isinstance(node, dict):
        return
    for key, one in node.items():
        if key == "Ref" and len(node) == 1:
            yield str(one)
        elif key == "Fn::Sub":
            yield from _substituted(one)
        yield from _references(one, depth + 1)


def _substituted(node: Any) -> Iterator[str]:
    """``Fn::Sub`` takes a text, or a text and names of its own."""
    text, own = node if isinstance(node, list) and len(node) == 2 else (node, {})
    if isinstance(text, str):
        yield from (name for name in _SUB.findall(text) if not isinstance(own, dict) or name not in own)


def _subject_types(der: bytes) -> set[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd certificate is judged where it is issued, not here
            return {one.oid.dotted_string for one in x509.load_der_x509_certificate(der).subject}
    except UNREADABLE:
        return set()


def _malformed(reason: str) -> Misconfigured:
    return Misconfigured(
        "cloud.aws.template",
        f"this is not a provisioning template that AWS IoT can carry out: {reason}",
        hint="docs/clouds/aws-iot.md shows a template for each mode.",
        reason=reason,
    )
