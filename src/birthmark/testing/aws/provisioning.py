"""Provisioning templates by name: their versions, and claims for fleet provisioning.

Source: AWS IoT API reference. A template has at most five versions; the one in use is not deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from birthmark.testing.aws.certificates import add_certificate, key_pair
from birthmark.testing.aws.desk import Desk, Operation, page_of
from birthmark.testing.aws.records import ProvisioningTemplate, TemplateVersion, now
from birthmark.testing.aws.refusal import Refusal, already_exists, invalid, not_found
from birthmark.testing.aws.templates import check_template

__all__ = ["OPERATIONS"]

_VERSIONS = 5
_CLAIM = timedelta(minutes=5)


def _need(desk: Desk, asked: Mapping[str, Any]) -> ProvisioningTemplate:
    found = desk.registry.templates.get(asked["templateName"])
    if found is None:
        raise not_found(f"The template {asked['templateName']}")
    return found


def _create(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    name, templates = asked["templateName"], desk.registry.templates
    check_template(asked["templateBody"])
    if name in templates:
        raise already_exists(f"Template {name} already exists.", name, templates[name].arn)
    templates[name] = ProvisioningTemplate(
        name,
        desk.registry.arn_of("provisioningtemplate", name),
        asked.get("type") or "FLEET_PROVISIONING",
        asked["provisioningRoleArn"],
        asked.get("enabled") is True,
        asked.get("description") or "",
        asked.get("preProvisioningHook"),
        {1: TemplateVersion(1, asked["templateBody"])},
    )
    return {"templateArn": templates[name].arn, "templateName": name, "defaultVersionId": 1}


def _describe(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _need(desk, asked)
    return {
        **_summary(found),
        "defaultVersionId": found.default,
        "templateBody": found.body,
        "provisioningRoleArn": found.role,
        "preProvisioningHook": found.hook,
    }


def _summary(found: ProvisioningTemplate) -> dict[str, Any]:
    return {
        "templateArn": found.arn,
        "templateName": found.name,
        "description": found.description,
        "creationDate": found.created,
        "lastModifiedDate": found.modified,
        "enabled": found.enabled,
        "type": found.kind,
    }


def _list(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = [_summary(one) for one in desk.registry.templates.values()]
    page, after = page_of(rows, asked)
    return {"templates": page, "nextToken": after}


def _update(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found, version = _need(desk, asked), asked.get("defaultVersionId")
    if version is not None and version not in found.versions:
        raise invalid(f"The template has no version {version}.")
    found.default = version or found.default
    found.description = asked.get("description", found.description)
    found.enabled = asked.get("enabled", found.enabled)
    found.role = asked.get("provisioningRoleArn", found.role)
    found.hook = None if asked.get("removePreProvisioningHook") else asked.get("preProvisioningHook", found.hook)
    found.modified = now()
    return {}


def _delete(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    name = _need(desk, asked).name
    users = desk.registry.ca_certificates.values()
    if any((one.registration_config or {}).get("templateName") == name for one in users):
        raise Refusal("DeleteConflictException", f"Template {name} is used by a CA certificate.")
    del desk.registry.templates[name]
    return {}


def _create_version(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _need(desk, asked)
    check_template(asked["templateBody"])
    if len(found.versions) >= _VERSIONS:
        raise Refusal("VersionsLimitExceededException", f"A template has {_VERSIONS} versions at most.")
    found.last += 1
    found.versions[found.last] = TemplateVersion(found.last, asked["templateBody"])
    if asked.get("setAsDefault"):
        found.default = found.last
    found.modified = now()
    return {
        "templateArn": found.arn,
        "templateName": found.name,
        "versionId": found.last,
        "isDefaultVersion": found.default == found.last,
    }


def _version(desk: Desk, asked: Mapping[str, Any]) -> tuple[ProvisioningTemplate, TemplateVersion]:
    found = _need(desk, asked)
    if asked["versionId"] not in found.versions:
        raise not_found(f"Version {asked['versionId']} of the template")
    return found, found.versions[asked["versionId"]]


def _describe_version(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found, one = _version(desk, asked)
    return {
        "versionId": one.number,
        "creationDate": one.created,
        "templateBody": one.body,
        "isDefaultVersion": one.number == found.default,
    }


def _list_versions(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _need(desk, asked)
    rows = [
        {"versionId": one.number, "creationDate": one.created, "isDefaultVersion": one.number == found.default}
        for one in found.versions.values()
    ]
    page, after = page_of(rows, asked)
    return {"versions": page, "nextToken": after}


def _delete_version(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found, one = _version(desk, asked)
    if one.number == found.default:
        raise Refusal("DeleteConflictException", "The version in use cannot be deleted.")
    del found.versions[one.number]
    return {}


def _claim(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    _need(desk, asked)
    key = rsa.generate_private_key(65537, 2048)
    pem = desk.registry.amazon.issue(key.public_key())
    made = add_certificate(desk.registry, pem, "ACTIVE", None, "DEFAULT")
    made.claim, made.ends = asked["templateName"], now() + _CLAIM
    return {
        "certificateId": made.certificate_id,
        "certificatePem": pem,
        "keyPair": key_pair(key),
        "expiration": made.ends,
    }


OPERATIONS: Mapping[str, Operation] = {
    "CreateProvisioningTemplate": _create,
    "DescribeProvisioningTemplate": _describe,
    "ListProvisioningTemplates": _list,
    "UpdateProvisioningTemplate": _update,
    "DeleteProvisioningTemplate": _delete,
    "CreateProvisioningTemplateVersion": _create_version,
    "DescribeProvisioningTemplateVersion": _describe_version,
    "ListProvisioningTemplateVersions": _list_versions,
    "DeleteProvisioningTemplateVersion": _delete_version,
    "CreateProvisioningClaim": _claim,
}
