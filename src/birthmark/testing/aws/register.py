"""RegisterThing: a template is carried out. Also what bulk registration, JITP and fleet provisioning run.

Everything is judged before anything is made, so that what is refused leaves nothing behind. The service does not
promise that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.iot.exceptions import ResourceAlreadyExistsException
from moto.iot.models import FakeThing

from birthmark.testing.aws.authority import read_certificate
from birthmark.testing.aws.certificates import add_certificate, add_signed
from birthmark.testing.aws.desk import Desk, Operation
from birthmark.testing.aws.refusal import Refusal, invalid, not_found
from birthmark.testing.aws.registry import Certificate, Registry
from birthmark.testing.aws.templates import Plan, Resource, fill

__all__ = ["OPERATIONS", "carry_out", "register_thing"]


_OWN = ("InvalidRequestException", "ConflictingResourceUpdateException")


def _register_thing(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    return register_thing(desk.registry, asked["templateBody"], asked.get("parameters") or {})


def register_thing(registry: Registry, body: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a template; return ``certificatePem`` and ``resourceArns`` (logical name → ARN).

    What goes wrong with a resource is ``ResourceRegistrationFailureException``.
    """
    try:
        return carry_out(registry, fill(body, parameters))
    except Refusal as refusal:
        if refusal.code in _OWN:
            raise
        raise Refusal("ResourceRegistrationFailureException", f"{refusal.code}: {refusal.message}") from None
    except JsonRESTError as refusal:
        said = f"{refusal.error_type}: {refusal.message}"
        raise Refusal("ResourceRegistrationFailureException", said) from None


def carry_out(registry: Registry, plan: Plan, given: Certificate | None = None) -> dict[str, Any]:
    """As ``register_thing``; ``given``: the certificate that the device has already (JITP, fleet provisioning)."""
    thing = _judge_thing(registry, plan.thing)
    documents = [_policy(registry, one) for one in plan.policies]
    certificate, is_new = _certificate(registry, plan.certificate, given)
    arns: dict[str, str] = {}
    if plan.thing is not None:
        arns[plan.thing.name] = _put_thing(registry, plan.thing, thing)
    if certificate is not None and plan.certificate is not None:
        _set_status(certificate, plan.certificate, is_new=is_new or given is not None)
        arns[plan.certificate.name] = certificate.arn
        if plan.thing is not None:
            registry.attach_thing_principal(str(plan.thing.properties["ThingName"]), certificate.arn)
    for one, (name, document) in zip(plan.policies, documents, strict=True):
        if document is not None and name not in registry.policies:  # two resources may be one policy
            registry.create_policy(name, document)  # type: ignore[arg-type]  # moto keeps the text it is given
        arns[one.name] = registry.policies[name].arn
        if certificate is not None:
            registry.attach_policy(name, certificate.arn)
    return {"certificatePem": certificate.certificate_pem if certificate else None, "resourceArns": arns}


def _judge_thing(registry: Registry, resource: Resource | None) -> FakeThing | None:
    if resource is None:
        return None
    name, attributes = resource.properties.get("ThingName"), resource.properties.get("AttributePayload", {})
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise invalid("A thing needs a ThingName of 1 to 128 characters.")
    if not isinstance(attributes, dict) or not all(isinstance(one, str) for one in attributes.values()):
        raise invalid("AttributePayload holds names and texts.")
    kind = resource.properties.get("ThingTypeName")
    if kind and kind not in {one.thing_type_name for one in registry.thing_types.values()}:
        raise not_found(f"The thing type {kind}")
    for group in resource.properties.get("ThingGroups", ()):
        registry.describe_thing_group(group)
    if resource.properties.get("BillingGroup"):
        registry.describe_billing_group(resource.properties["BillingGroup"])
    found = registry.thing(name)
    if found is not None and "FAIL" in resource.overrides.values():
        raise Refusal("ConflictingResourceUpdateException", f"Thing {name} already exists.")
    return found


def _put_thing(registry: Registry, resource: Resource, found: FakeThing | None) -> str:
    asked, settings = resource.properties, resource.overrides
    name, attributes = asked["ThingName"], dict(asked.get("AttributePayload", {}))
    groups: list[str] = list(asked.get("ThingGroups", ()))
    if found is None:
        made = registry.create_thing(
            name, asked.get("ThingTypeName") or "", {"attributes": attributes}, asked.get("BillingGroup")
        )
        registry.update_thing_groups_for_thing(name, groups, [])
        return made.arn
    how = settings.get("AttributePayload", "DO_NOTHING")
    if how in ("REPLACE", "MERGE"):
        registry.update_thing(name, "", {"attributes": attributes, "merge": how == "MERGE"}, False)
        found.version += 1
    if settings.get("ThingTypeName") == "REPLACE" and asked.get("ThingTypeName"):
        registry.update_thing(name, asked["ThingTypeName"], None, False)
    if settings.get("ThingGroups") == "REPLACE":
        old = [one["groupName"] for one in registry.list_thing_groups_for_thing(name)]
        registry.update_thing_groups_for_thing(name, groups, [one for one in old if one not in groups])
    return found.arn


def _certificate(
    registry: Registry, resource: Resource | None, given: Certificate | None
) -> tuple[Certificate | None, bool]:
    if resource is None or given is not None:
        return given, False
    asked, status = resource.properties, str(resource.properties.get("Status") or "ACTIVE").upper()
    if asked.get("CertificateId"):
        found = registry.certificates.get(str(asked["CertificateId"]))
        if not isinstance(found, Certificate):
            raise not_found(f"The certificate {asked['CertificateId']}")
        return _existing(found, resource), False
    if asked.get("CertificateSigningRequest"):
        pem = registry.amazon.sign(str(asked["CertificateSigningRequest"]))
        return add_certificate(registry, pem, status, None, "DEFAULT"), True
    if not asked.get("CertificatePem"):
        raise invalid("A certificate is given by CertificateSigningRequest, CertificateId or CertificatePem.")
    one, pem = read_certificate(str(asked["CertificatePem"]))
    found = registry.certificates.get(sha256(_der(one)).hexdigest())
    if isinstance(found, Certificate):
        return _existing(found, resource), False
    if asked.get("CertificateMode") == "SNI_ONLY":
        if asked.get("CACertificatePem"):
            raise invalid("A certificate with CertificateMode SNI_ONLY has no CACertificatePem.")
        return add_certificate(registry, pem, status, None, "SNI_ONLY"), True
    if not asked.get("CACertificatePem"):
        raise invalid("CertificatePem needs the CACertificatePem, or CertificateMode SNI_ONLY.")
    return add_signed(registry, pem, str(asked["CACertificatePem"]), status), True


def _der(one: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    found: bytes = one.public_bytes(Encoding.DER)
    return found


def _existing(found: Certificate, resource: Resource) -> Certificate:
    if resource.overrides.get("Status") == "FAIL":
        raise Refusal("ConflictingResourceUpdateException", f"Certificate {found.certificate_id} already exists.")
    return found


def _set_status(certificate: Certificate, resource: Resource, *, is_new: bool) -> None:
    if is_new or resource.overrides.get("Status") == "REPLACE":
        certificate.status = str(resource.properties.get("Status") or "ACTIVE").upper()


def _policy(registry: Registry, resource: Resource) -> tuple[str, str | None]:
    name, document = resource.properties.get("PolicyName"), resource.properties.get("PolicyDocument")
    if document is None:
        if not isinstance(name, str) or name not in registry.policies:
            raise not_found(f"The policy {name}")
        return name, None
    text = document if isinstance(document, str) else json.dumps(document)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal("MalformedPolicyException", "The PolicyDocument is not valid JSON.") from None
    chosen = name if isinstance(name, str) and name else sha256(text.encode()).hexdigest()
    held = registry.policies.get(chosen)
    if held is None:
        return chosen, text
    if str(held.document) != text:
        raise ResourceAlreadyExistsException(f"Policy {chosen} has another document.", chosen, held.arn)
    return chosen, None


OPERATIONS: Mapping[str, Operation] = {"RegisterThing": _register_thing}
