"""Things, where moto is not like the service: a second CreateThing, versions, and the data endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moto.iot.models import FakeThing

from birthmark.testing.aws.desk import Desk, Operation
from birthmark.testing.aws.refusal import Refusal, already_exists, invalid

__all__ = ["OPERATIONS"]


def _create(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    registry, name = desk.registry, asked["thingName"]
    found = registry.thing(name)
    attributes = (asked.get("attributePayload") or {}).get("attributes", {})
    if found is not None:
        same = found.attributes == attributes and _type(found) == asked.get("thingTypeName")
        if not (same and found.billing_group_name == asked.get("billingGroupName")):
            raise already_exists(f"Thing {name} already exists with different attributes.", name, found.arn)
    else:
        found = registry.create_thing(
            name, asked.get("thingTypeName") or "", asked.get("attributePayload"), asked.get("billingGroupName")
        )
    return {"thingName": name, "thingArn": found.arn, "thingId": found.thing_id}


def _type(thing: FakeThing) -> str | None:
    return thing.thing_type.thing_type_name if thing.thing_type else None


def _expect(thing: FakeThing, version: int | None) -> None:
    if version is not None and version != thing.version:
        raise Refusal("VersionConflictException", f"The version of thing {thing.thing_name} is {thing.version}.")


def _update(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    thing = desk.registry.describe_thing(asked["thingName"])
    _expect(thing, asked.get("expectedVersion"))
    if asked.get("removeThingType") and asked.get("thingTypeName"):
        raise invalid("removeThingType and thingTypeName exclude one another.")
    desk.registry.update_thing(
        asked["thingName"],
        asked.get("thingTypeName") or "",
        asked.get("attributePayload"),
        asked.get("removeThingType") is True,
    )
    thing.version += 1
    return {}


def _delete(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    thing = desk.registry.thing(asked["thingName"])
    if thing is not None:  # deleting what is not there is no error of the service
        _expect(thing, asked.get("expectedVersion"))
        desk.registry.delete_thing(asked["thingName"])
    return {}


def _endpoint(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    if asked.get("endpointType") not in (None, "iot:Data-ATS", "iot:Data"):
        raise invalid("Only the data endpoint is emulated.")
    return {"endpointAddress": desk.endpoint}


OPERATIONS: Mapping[str, Operation] = {
    "CreateThing": _create,
    "UpdateThing": _update,
    "DeleteThing": _delete,
    "DescribeEndpoint": _endpoint,
}
