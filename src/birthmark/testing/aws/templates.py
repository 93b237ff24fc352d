"""Provisioning templates: what a template asks for once its parameters are filled in.

Source: AWS IoT developer guide, "Provisioning templates": parameters, resources, override settings, functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from birthmark.testing.aws.refusal import invalid

__all__ = ["Plan", "Resource", "check_template", "fill"]

_DEEP = 24
_THING, _CERTIFICATE, _POLICY = "AWS::IoT::Thing", "AWS::IoT::Certificate", "AWS::IoT::Policy"
_OVERRIDES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    _THING: {
        "AttributePayload": ("DO_NOTHING", "REPLACE", "FAIL", "MERGE"),
        "ThingTypeName": ("DO_NOTHING", "REPLACE", "FAIL"),
        "ThingGroups": ("DO_NOTHING", "REPLACE", "FAIL"),
    },
    _CERTIFICATE: {"Status": ("DO_NOTHING", "REPLACE", "FAIL")},
    _POLICY: {},
}


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource, filled in. ``name``: its logical name in the template."""

    name: str
    kind: str
    properties: Mapping[str, Any]
    overrides: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a template asks for. ``configuration``: what the device is told (fleet provisioning)."""

    thing: Resource | None
    certificate: Resource | None
    policies: tuple[Resource, ...]
    configuration: Mapping[str, Any]


def check_template(body: str) -> Mapping[str, Any]:
    """Return the document of a template, or raise ``Refusal("InvalidRequestException")``."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("The template is not valid JSON.") from None
    if not isinstance(document, dict):
        raise invalid("The template is not a JSON object.")
    parameters, resources = document.get("Parameters", {}), document.get("Resources")
    if not isinstance(parameters, dict) or not all(
        isinstance(one, dict) and one.get("Type") == "String" for one in parameters.values()
    ):
        raise invalid("Parameters of a template have the type String.")
    if not isinstance(resources, dict) or not resources:
        raise invalid("The template has no Resources.")
    for name, one in resources.items():
        _check_resource(name, one)
    kinds = [one["Type"] for one in resources.values()]
    if kinds.count(_THING) > 1 or kinds.count(_CERTIFICATE) > 1:
        raise invalid("A template has at most one thing and one certificate.")
    return document


def _check_resource(name: str, one: Any) -> None:
    if not isinstance(one, dict) or one.get("Type") not in _OVERRIDES or not isinstance(one.get("Properties"), dict):
        raise invalid(f"Resource {name} has no known Type or no Properties.")
    settings = one.get("OverrideSettings", {})
    allowed = _OVERRIDES[one["Type"]]
    if not isinstance(settings, dict) or not all(
        key in allowed and value in allowed[key] for key, value in settings.items()
    ):
        raise invalid(f"OverrideSettings of resource {name} are not allowed.")


def fill(body: str, parameters: Mapping[str, Any]) -> Plan:
    """Return what a template asks for with these parameters, or raise ``Refusal("InvalidRequestException")``."""
    document = check_template(body)
    values: dict[str, str] = {}
    for name, one in document.get("Parameters", {}).items():
        value = parameters.get(name, one.get("Default"))
        if not isinstance(value, str):
            raise invalid(f"The parameter {name} has no value.")
        values[name] = value
    filler = _Filler(values, document.get("Mappings", {}))
    found = [
        Resource(name, one["Type"], filler.value(one["Properties"]), one.get("OverrideSettings", {}))
        for name, one in document["Resources"].items()
    ]
    return Plan(
        next((one for one in found if one.kind == _THING), None),
        next((one for one in found if one.kind == _CERTIFICATE), None),
        tuple(one for one in found if one.kind == _POLICY),
        filler.value(document.get("DeviceConfiguration", {})),
    )


class _Filler:
    """Replaces references and functions by what they stand for."""

    def __init__(self, values: Mapping[str, str], mappings: Any) -> None:
        self._values, self._mappings = values, mappings

    def value(self, node: Any, depth: int = 0) -> Any:
        if depth > _DEEP:
            raise invalid("The template is nested too deeply.")
        if isinstance(node, list):
            return [self.value(one, depth + 1) for one in node]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            name, content = next(iter(node.items()))
            if name == "Ref":
                return self._named(content)
            if name == "Fn::Sub":
                return self._sub(content)
            if name.startswith("Fn::"):
                return self._function(name, self.value(content, depth + 1))
        return {key: self.value(one, depth + 1) for key, one in node.items()}

    def _named(self, name: Any) -> str:
        if not isinstance(name, str) or name not in self._values:
            raise invalid(f"The template refers to {str(name)[:80]!r}, which is no parameter.")
        return self._values[name]

    def _sub(self, content: Any) -> str:
        text, more = (content, {}) if isinstance(content, str) else (None, {})
        if isinstance(content, list) and len(content) == 2 and isinstance(content[1], dict):
            text, more = content[0], {key: self.value(one, 1) for key, one in content[1].items()}
        if not isinstance(text, str):
            raise invalid("Fn::Sub takes a text.")
        return re.sub(r"\$\{([^}]{1,128})\}", lambda m: str(more[m[1]]) if m[1] in more else self._named(m[1]), text)

    def _function(self, name: str, given: Any) -> Any:
        match name, given:
            case "Fn::Join", [str(separator), list(parts)] if all(isinstance(one, str) for one in parts):
                return separator.join(parts)
            case "Fn::Select", [int(number) | str(number), list(parts)] if str(number).isdecimal() and int(
                number
            ) < len(parts):
                return parts[int(number)]
            case "Fn::Split", [str(separator), str(text)] if separator:
                return text.split(separator)
            case "Fn::FindInMap", [str(first), str(second), str(third)]:
                try:
                    return self._mappings[first][second][third]
                except (KeyError, TypeError):
                    raise invalid(f"Mappings have no {first}.{second}.{third}.") from None
        raise invalid(f"{name} cannot be worked out.")
