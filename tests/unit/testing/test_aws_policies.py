"""AWS IoT policies and provisioning templates of the emulator, rule by rule."""

from __future__ import annotations

import json
from typing import Any

import pytest

from birthmark.testing.aws.broker import topic_matches
from birthmark.testing.aws.policy import Permits
from birthmark.testing.aws.refusal import Refusal
from birthmark.testing.aws.registry import Registry
from birthmark.testing.aws.templates import fill

ARN = "arn:aws:iot:us-east-1:123456789012:"


@pytest.fixture
def registry() -> Registry:
    return Registry("us-east-1", "123456789012")


def permits(registry: Registry, *statements: dict[str, Any], client_id: str = "unit-1") -> Permits:
    """What a certificate may do that has a policy with these statements and is that of the thing unit-1."""
    csr = "arn:aws:iot:us-east-1:123456789012:cert/none"
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    name = f"p{len(registry.policies)}"
    registry.create_policy(name, document)  # type: ignore[arg-type]  # moto keeps the text it is given
    registry._policies[csr][name] = None
    registry._things[csr]["unit-1"] = None
    return Permits(registry, csr, client_id)


def statement(effect: str, action: Any, resource: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


def test_only_what_is_allowed_is_allowed(registry: Registry) -> None:
    may = permits(registry, statement("Allow", ["iot:Connect", "iot:Pub*"], [f"{ARN}client/unit-?", f"{ARN}topic/a/*"]))
    assert may.allow("Connect", "client", "unit-1")
    assert may.allow("Publish", "topic", "a/b/c")
    assert not may.allow("Connect", "client", "unit-12")
    assert not may.allow("Publish", "topic", "b/a/c")
    assert not may.allow("Subscribe", "topicfilter", "a/b")
    assert not Permits(registry, f"{ARN}cert/other", "unit-1").allow("Connect", "client", "unit-1")


def test_a_denial_goes_before_and_a_condition_allows_nothing(registry: Registry) -> None:
    may = permits(
        registry,
        statement("Allow", "*", "*"),
        statement("Deny", "iot:Publish", f"{ARN}topic/secret/*", Condition={"Bool": {"x": "true"}}),
    )
    assert may.allow("Publish", "topic", "open")
    assert not may.allow("Publish", "topic", "secret/a")
    other = Registry("us-east-1", "123456789012")
    assert not permits(other, statement("Allow", "*", "*", Condition={})).allow("Publish", "topic", "open")
    assert not permits(other, {"Effect": "Allow"}).allow("Publish", "topic", "open")


def test_variables_stand_for_client_and_thing_and_without_a_value_for_nothing(registry: Registry) -> None:
    rule = statement("Allow", "iot:Connect", f"{ARN}client/${{iot:Connection.Thing.ThingName}}")
    assert permits(registry, rule).allow("Connect", "client", "unit-1")
    assert not permits(registry, rule, client_id="unit-2").allow("Connect", "client", "unit-2")
    mine = statement("Allow", "iot:Publish", f"{ARN}topic/${{iot:ClientId}}/*/data")
    assert permits(registry, mine, client_id="unit-2").allow("Publish", "topic", "unit-2/a/b/data")
    assert not permits(registry, mine, client_id="unit-2").allow("Publish", "topic", "unit-2/a/b/datum")


@pytest.mark.parametrize("policy", ["{", "[]", "{}", '{"Statement": 1}', "[" * 5000])
def test_a_policy_that_cannot_be_read_allows_nothing(registry: Registry, policy: str) -> None:
    registry.create_policy("odd", policy)  # type: ignore[arg-type]
    registry._policies["arn"]["odd"] = None
    assert not Permits(registry, "arn", "unit-1").allow("Connect", "client", "unit-1")


def test_no_pattern_takes_long(registry: Registry) -> None:
    may = permits(registry, statement("Allow", "*", f"{ARN}topic/" + "*a" * 200 + "b"))
    assert not may.allow("Publish", "topic", "a" * 500)


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$aws/things", False),
        ("+/things", "$aws/things", False),
        ("$aws/#", "$aws/things", True),
        ("+/+", "/a", True),
        ("a", "a/b", False),
    ],
)
def test_topic_filters_mean_what_the_standard_says(pattern: str, topic: str, fits: bool) -> None:
    """OASIS MQTT 3.1.1, section 4.7, with its own examples."""
    assert topic_matches(pattern, topic) is fits


def thing(name: Any, **more: Any) -> str:
    resource = {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": name}}
    parameters = {"A": {"Type": "String"}, "B": {"Type": "String", "Default": "b"}}
    return json.dumps({"Parameters": parameters, "Resources": {"thing": resource}, **more})


@pytest.mark.parametrize(
    ("name", "filled"),
    [
        ("plain", "plain"),
        ({"Ref": "A"}, "x-y-z"),
        ({"Ref": "B"}, "b"),
        ({"Fn::Join": ["/", ["1", {"Ref": "A"}]]}, "1/x-y-z"),
        ({"Fn::Select": ["1", {"Fn::Split": ["-", {"Ref": "A"}]}]}, "y"),
        ({"Fn::Select": [2, ["p", "q", "r"]]}, "r"),
        ({"Fn::Sub": "${A}.${B}"}, "x-y-z.b"),
        ({"Fn::Sub": ["${C}+${B}", {"C": {"Ref": "A"}}]}, "x-y-z+b"),
        ({"Fn::FindInMap": ["M", {"Ref": "A"}, "url"]}, "found"),
    ],
)
def test_references_and_functions_are_filled_in(name: Any, filled: str) -> None:
    plan = fill(thing(name, Mappings={"M": {"x-y-z": {"url": "found"}}}), {"A": "x-y-z"})
    assert plan.thing is not None
    assert plan.thing.properties == {"ThingName": filled}


@pytest.mark.parametrize(
    "body",
    [
        thing({"Ref": "C"}),
        thing({"Fn::Select": ["3", ["a"]]}),
        thing({"Fn::Join": ["-", [1]]}),
        thing({"Fn::Split": ["", "a"]}),
        thing({"Fn::FindInMap": ["M", "a", "b"]}),
        thing({"Fn::Sub": 1}),
        thing({"Fn::GetAtt": "a"}),
        thing("{" * 2).replace('"{{"', '{"a":' * 40 + "1" + "}" * 40),
        "[" * 5000,
        json.dumps({"Parameters": {"A": {"Type": "Number"}}, "Resources": {"a": {}}}),
        json.dumps({"Resources": {"a": {"Type": "AWS::IoT::Rule", "Properties": {}}}}),
        json.dumps({"Resources": {n: {"Type": "AWS::IoT::Thing", "Properties": {}} for n in "ab"}}),
        json.dumps(
            {
                "Resources": {
                    "a": {"Type": "AWS::IoT::Thing", "Properties": {}, "OverrideSettings": {"ThingTypeName": "MERGE"}}
                }
            }
        ),
    ],
)
def test_what_cannot_be_filled_in_is_refused(body: str) -> None:
    with pytest.raises(Refusal) as refused:
        fill(body, {"A": "a"})
    assert refused.value.code == "InvalidRequestException"
