"""Provisioning templates of AWS IoT: what is wrong in one is said before a device meets it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from birthmark.errors import Misconfigured, Refused
from birthmark.pki.awstemplate import bulk_template, just_in_time_template, parse_aws_template
from birthmark.pki.profile import load_preset
from support.devicepki import pool_credential

SUBJECT = "AWS::IoT::Certificate::"


def changed(text: str, *path: str, value: Any) -> str:
    """Return a template with one value at ``path`` replaced."""
    document = json.loads(text)
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(document)


BULK = bulk_template("devices", "lamp", "lamps")
JITP = just_in_time_template("devices", "lamp", "lamps")
THING = ("Resources", "thing")


def test_the_templates_that_are_made_here_are_good_ones() -> None:
    parse_aws_template(BULK).require_bulk()
    template = parse_aws_template(JITP)
    template.require_just_in_time()
    template.require_profile(load_preset("aws-iot"))
    template.require_certificate("lamp-1", pool_credential("lamp-1").certificate)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 10_241, "10241 characters"),
        ("{", "no JSON"),
        ("[" * 10_000, "no JSON"),
        ("[]", "no object"),
        (json.dumps({"Resources": {}, "Else": 1}), "no object"),
        (json.dumps({"Parameters": {}}), "no Resources"),
        (changed(BULK, "Parameters", "ThingName", value={"Type": "Number"}), "Type String"),
        (changed(BULK, "Parameters", "ThingName", value={"Type": "String", "Default": 1}), "Type String"),
        (changed(BULK, *THING, "Type", value="AWS::IoT::Lamp"), "'thing' is none of"),
        (changed(BULK, *THING, "Type", value=["AWS::IoT::Thing"]), "'thing' is none of"),
        (changed(BULK, *THING, "Properties", value={"Name": "x"}), "property"),
        (changed(BULK, *THING, "OverrideSettings", value={"ThingName": "FAIL"}), "OverrideSettings"),
        (changed(BULK, *THING, "OverrideSettings", value={"ThingTypeName": "MERGE"}), "OverrideSettings"),
        (changed(BULK, *THING, "OverrideSettings", value={"ThingTypeName": ["FAIL"]}), "OverrideSettings"),
        (changed(BULK, *THING, "Properties", value={"ThingName": {"Ref": "Name"}}), "refers to Name"),
        (changed(BULK, *THING, "Properties", value={"ThingName": {"Fn::Sub": "x-${Name}"}}), "refers to Name"),
        (changed(BULK, "Resources", "second", value=json.loads(BULK)["Resources"]["thing"]), "more than one"),
        (changed(BULK, "Resources", "policy", "Properties", value={}), "not both"),
    ],
)
def test_a_form_that_aws_cannot_carry_out(text: str, reason: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        parse_aws_template(text)
    assert raised.value.code == "cloud.aws.template"
    assert reason in raised.value.message


def test_a_template_nested_without_end() -> None:
    node: Any = "x"
    for _ in range(60):
        node = [node]
    with pytest.raises(Misconfigured) as raised:
        parse_aws_template(changed(BULK, *THING, "Properties", value={"ThingGroups": node}))
    assert "nested" in raised.value.message


def test_a_parameter_that_nobody_gives_a_value() -> None:
    for text, check in ((BULK, "require_bulk"), (JITP, "require_just_in_time")):
        template = parse_aws_template(changed(text, "Parameters", "Place", value={"Type": "String"}))
        with pytest.raises(Misconfigured) as raised:
            getattr(template, check)()
        assert (raised.value.code, raised.value.facts["parameter"]) == ("cloud.aws.template.parameter", "Place")
        default = {"Type": "String", "Default": "hall 3"}
        getattr(parse_aws_template(changed(text, "Parameters", "Place", value=default)), check)()


def test_a_bulk_template_fails_for_a_thing_that_is_there() -> None:
    with pytest.raises(Misconfigured) as raised:
        parse_aws_template(changed(BULK, *THING, "OverrideSettings", value={"ThingTypeName": "REPLACE"})).require_bulk()
    assert raised.value.code == "cloud.aws.template.overwrites"


@pytest.mark.parametrize(("path", "value"), [(("Properties", "Status"), "INACTIVE"), (("OverrideSettings",), {})])
def test_a_bulk_template_leaves_no_certificate_blocked(path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(Misconfigured) as raised:
        parse_aws_template(changed(BULK, "Resources", "certificate", *path, value=value)).require_bulk()
    assert raised.value.code == "cloud.aws.template.status"


def test_a_just_in_time_template_needs_the_certificate() -> None:
    document = json.loads(JITP)
    del document["Resources"]["certificate"]
    with pytest.raises(Misconfigured):
        parse_aws_template(json.dumps(document)).require_just_in_time()


@pytest.mark.parametrize("name", ["Country", "StateName", "Organization", "OrganizationalUnit", "SerialNumber",
                                  "DistinguishedNameQualifier"])  # fmt: skip
def test_what_the_certificate_lacks_is_named_with_who_lacks_it(name: str) -> None:
    template = parse_aws_template(changed(JITP, "Parameters", f"{SUBJECT}{name}", value={"Type": "String"}))
    template.require_just_in_time()
    with pytest.raises(Misconfigured) as by_profile:
        template.require_profile(load_preset("aws-iot"))
    assert (by_profile.value.facts["parameter"], by_profile.value.facts["profile"]) == (f"{SUBJECT}{name}", "aws-iot")
    with pytest.raises(Refused) as by_device:
        template.require_certificate("lamp-1", pool_credential("lamp-1").certificate)
    assert by_device.value.facts == {"parameter": f"{SUBJECT}{name}", "device_serial": "lamp-1"}


def test_an_idevid_has_a_serial_number_that_a_template_may_use() -> None:
    template = parse_aws_template(changed(JITP, "Parameters", f"{SUBJECT}SerialNumber", value={"Type": "String"}))
    types = {one.type for one in load_preset("idevid").subject}
    assert "serialNumber" in types
    if "CN" in types:
        template.require_profile(load_preset("idevid"))
