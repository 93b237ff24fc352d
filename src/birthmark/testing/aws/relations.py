"""What hangs together: things with certificates, certificates with policies, things in groups; told page by page.

moto answers these as well, but whole lists at once and by search; a line that registers 100,000 devices needs pages,
and look-ups that stay flat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from moto.iot.models import FakeThing

from birthmark.testing.aws.desk import Desk, Operation, page_of, start_of
from birthmark.testing.aws.refusal import Refusal, invalid

__all__ = ["OPERATIONS"]

_POLICIES = 10
_PAGE = 250


def _describe_thing(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found = desk.registry.describe_thing(asked["thingName"])
    return found.to_dict(include_default_client_id=True, include_thing_id=True)


def _describe_certificate(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"certificateDescription": desk.registry.describe_certificate(asked["certificateId"]).to_description_dict()}


def _attach_principal(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    desk.registry.attach_thing_principal(asked["thingName"], asked["principal"])
    return {}


def _detach_principal(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    desk.registry.detach_thing_principal(asked["thingName"], asked["principal"])
    return {}


def _principals(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    page, after = page_of(desk.registry.list_thing_principals(asked["thingName"]), asked)
    return {"principals": page, "nextToken": after}


def _things_of(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    page, after = page_of(desk.registry.list_principal_things(asked["principal"]), asked)
    return {"things": page, "nextToken": after}


def _attach_policy(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    held = {one.name for one in desk.registry.list_attached_policies(asked["target"])}
    if len(held | {asked["policyName"]}) > _POLICIES:
        raise Refusal("LimitExceededException", f"A target has {_POLICIES} policies at most.")
    desk.registry.attach_policy(asked["policyName"], asked["target"])
    return {}


def _detach_policy(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    desk.registry.detach_policy(asked["policyName"], asked["target"])
    return {}


def _policies(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = [one.to_dict() for one in desk.registry.list_attached_policies(asked["target"])]
    page, after = page_of(rows, asked, most="pageSize", after="marker")
    return {"policies": page, "nextMarker": after}


def _list_things(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    wanted = _filter(asked)
    start, count = start_of(asked.get("nextToken")), int(asked.get("maxResults") or _PAGE)
    seen = islice(enumerate(desk.registry.things.values()), start, None)
    found = list(islice(((number, one) for number, one in seen if wanted(one)), count + 1))
    after = str(found[count][0]) if len(found) > count else None
    return {"things": [one.to_dict() for _, one in found[:count]], "nextToken": after}


def _filter(asked: Mapping[str, Any]) -> Callable[[FakeThing], bool]:
    name, value, kind = (asked.get(key) for key in ("attributeName", "attributeValue", "thingTypeName"))
    if value is not None and name is None:
        raise invalid("An attributeValue needs its attributeName.")
    prefix = asked.get("usePrefixAttributeValue") is True

    def wanted(thing: FakeThing) -> bool:
        if kind is not None and (thing.thing_type is None or thing.thing_type.thing_type_name != kind):
            return False
        if name is None:
            return True
        held = thing.attributes.get(name)
        return held is not None and (value is None or (held.startswith(value) if prefix else held == value))

    return wanted


def _in_group(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    group = desk.registry.describe_thing_group(asked["thingGroupName"])
    start, count = start_of(asked.get("nextToken")), int(asked.get("maxResults") or _PAGE)
    names = [one.thing_name for one in islice(group.things.values(), start, start + count)]
    after = str(start + count) if start + count < len(group.things) else None
    return {"things": names, "nextToken": after}


OPERATIONS: Mapping[str, Operation] = {
    "DescribeThing": _describe_thing,
    "DescribeCertificate": _describe_certificate,
    "AttachThingPrincipal": _attach_principal,
    "DetachThingPrincipal": _detach_principal,
    "ListThingPrincipals": _principals,
    "ListPrincipalThings": _things_of,
    "AttachPolicy": _attach_policy,
    "DetachPolicy": _detach_policy,
    "ListAttachedPolicies": _policies,
    "ListThings": _list_things,
    "ListThingsInThingGroup": _in_group,
}
