"""boto3 against the emulated AWS IoT: every answer parses, every refusal is the modelled exception."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.testing.aws import EmulatedAws, FaultPlan
from support.awsworld import ROLE, authority, certificate, client, pem, proof, request
from support.stationworld import Factory, build_factory

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing-aws.md"
KEYS = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
POLICY = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]})
TEMPLATE = json.dumps(
    {
        "Parameters": {"ThingName": {"Type": "String"}, "Pem": {"Type": "String"}, "Ca": {"Type": "String"}},
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {
                    "ThingName": {"Ref": "ThingName"},
                    "AttributePayload": {"made": {"Fn::Join": ["-", ["by", {"Ref": "ThingName"}]]}},
                },
                "OverrideSettings": {"AttributePayload": "FAIL"},
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificatePem": {"Ref": "Pem"}, "CACertificatePem": {"Ref": "Ca"}, "Status": "ACTIVE"},
            },
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "devices"}},
        },
    }
)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("factory"))


@pytest.fixture
def aws() -> Iterator[EmulatedAws]:
    with EmulatedAws() as running:
        yield running


def known_ca(iot: Any, factory: Factory) -> tuple[x509.Certificate, Any]:
    ca, key = authority(factory)
    code = iot.get_registration_code()["registrationCode"]
    iot.register_ca_certificate(caCertificate=pem(ca), verificationCertificate=proof(code, ca, key), setAsActive=True)
    return ca, key


def test_a_ca_is_registered_once_it_proves_its_key_and_every_other_way_is_refused_by_name(
    factory: Factory, aws: EmulatedAws
) -> None:
    iot, (ca, key) = client(aws), authority(factory)
    code = iot.get_registration_code()["registrationCode"]
    assert len(code) == 64
    assert iot.get_registration_code()["registrationCode"] == code
    stranger = ec.generate_private_key(ec.SECP256R1())
    said = iot.exceptions
    with pytest.raises(said.RegistrationCodeValidationException):
        iot.register_ca_certificate(caCertificate=pem(ca), verificationCertificate=proof("other", ca, key))
    with pytest.raises(said.CertificateValidationException):
        iot.register_ca_certificate(caCertificate=pem(ca), verificationCertificate=proof(code, ca, stranger))
    with pytest.raises(said.InvalidRequestException):
        iot.register_ca_certificate(caCertificate=pem(ca))
    with pytest.raises(said.CertificateValidationException):
        iot.register_ca_certificate(caCertificate=pem(certificate("d", ca, key)[0]), certificateMode="SNI_ONLY")
    made = iot.register_ca_certificate(
        caCertificate=pem(ca),
        verificationCertificate=proof(code, ca, key),
        setAsActive=True,
        allowAutoRegistration=True,
    )
    assert made["certificateId"] == sha256(ca.public_bytes(Encoding.DER)).hexdigest()
    shown = iot.describe_ca_certificate(certificateId=made["certificateId"])["certificateDescription"]
    assert (shown["status"], shown["certificateMode"], shown["autoRegistrationStatus"]) == (
        "ACTIVE",
        "DEFAULT",
        "ENABLE",
    )
    assert shown["validity"]["notAfter"] == ca.not_valid_after_utc
    with pytest.raises(said.ResourceAlreadyExistsException) as again:
        iot.register_ca_certificate(caCertificate=pem(ca), certificateMode="SNI_ONLY")
    assert again.value.response["resourceId"] == made["certificateId"]
    assert again.value.response["resourceArn"] == made["certificateArn"]
    iot.update_ca_certificate(certificateId=made["certificateId"], newStatus="INACTIVE")
    assert [one["status"] for one in iot.list_ca_certificates()["certificates"]] == ["INACTIVE"]
    iot.delete_ca_certificate(certificateId=made["certificateId"])
    with pytest.raises(said.ResourceNotFoundException):
        iot.describe_ca_certificate(certificateId=made["certificateId"])


def test_ten_cas_of_one_subject_are_the_most(factory: Factory, aws: EmulatedAws) -> None:
    iot, (ca, key) = client(aws), authority(factory)
    many = [certificate("One subject", ca, key, ca=True)[0] for _ in range(11)]
    for one in many[:10]:
        iot.register_ca_certificate(caCertificate=pem(one), certificateMode="SNI_ONLY")
    with pytest.raises(iot.exceptions.LimitExceededException):
        iot.register_ca_certificate(caCertificate=pem(many[10]), certificateMode="SNI_ONLY")
    seen = [one for page in pages(iot, "list_ca_certificates", 4) for one in page["certificates"]]
    assert len({one["certificateId"] for one in seen}) == 10


def pages(iot: Any, name: str, size: int, **asked: Any) -> list[dict[str, Any]]:
    found, marker = [], ""
    while True:
        more = {"marker": marker} if marker else {}
        found.append(getattr(iot, name)(pageSize=size, **more, **asked))
        marker = found[-1].get("nextMarker", "")
        if not marker:
            return found


def test_device_certificates_are_registered_with_a_ca_without_one_and_from_a_request(
    factory: Factory, aws: EmulatedAws
) -> None:
    iot = client(aws)
    leaf, _ = certificate("unit-1", *authority(factory))
    with pytest.raises(iot.exceptions.CertificateValidationException):
        iot.register_certificate(certificatePem=pem(leaf))
    ca, key = known_ca(iot, factory)
    made = iot.register_certificate(certificatePem=pem(leaf), caCertificatePem=pem(ca), status="ACTIVE")
    assert made["certificateId"] == sha256(leaf.public_bytes(Encoding.DER)).hexdigest()
    shown = iot.describe_certificate(certificateId=made["certificateId"])["certificateDescription"]
    assert (shown["status"], shown["certificateMode"]) == ("ACTIVE", "DEFAULT")
    assert shown["caCertificateId"] == sha256(ca.public_bytes(Encoding.DER)).hexdigest()
    assert x509.load_pem_x509_certificate(shown["certificatePem"].encode()) == leaf
    for register in (iot.register_certificate, iot.register_certificate_without_ca):
        with pytest.raises(iot.exceptions.ResourceAlreadyExistsException) as again:
            register(certificatePem=pem(leaf))
        assert again.value.response["resourceId"] == made["certificateId"]
    with pytest.raises(iot.exceptions.CertificateValidationException):
        iot.register_certificate_without_ca(certificatePem="no certificate")
    alone, _ = certificate("unit-2", ca, key)
    found = iot.register_certificate_without_ca(certificatePem=pem(alone), status="ACTIVE")["certificateId"]
    mode = iot.describe_certificate(certificateId=found)["certificateDescription"]["certificateMode"]
    assert mode == "SNI_ONLY"
    csr, device_key = request("unit-3")
    first = iot.create_certificate_from_csr(certificateSigningRequest=csr, setAsActive=True)
    second = iot.create_certificate_from_csr(certificateSigningRequest=csr)
    assert first["certificateId"] != second["certificateId"]  # the service keeps no record of requests
    assert x509.load_pem_x509_certificate(first["certificatePem"].encode()).public_key() == device_key.public_key()
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.create_certificate_from_csr(certificateSigningRequest="none")
    iot.update_certificate(certificateId=found, newStatus="REVOKED")
    seen = [one for page in pages(iot, "list_certificates", 3) for one in page["certificates"]]
    assert len(seen) == 4
    assert {one["certificateId"]: one["status"] for one in seen}[found] == "REVOKED"
    mine = iot.list_certificates_by_ca(caCertificateId=shown["caCertificateId"])["certificates"]
    assert [one["certificateId"] for one in mine] == [made["certificateId"]]


def test_things_are_created_twice_only_if_they_are_the_same(aws: EmulatedAws) -> None:
    iot = client(aws)
    first = iot.create_thing(thingName="unit-1", attributePayload={"attributes": {"a": "1"}})
    assert (
        iot.create_thing(thingName="unit-1", attributePayload={"attributes": {"a": "1"}})["thingId"] == first["thingId"]
    )
    with pytest.raises(iot.exceptions.ResourceAlreadyExistsException) as again:
        iot.create_thing(thingName="unit-1")
    assert again.value.response["resourceId"] == "unit-1"
    iot.update_thing(thingName="unit-1", attributePayload={"attributes": {"a": "2"}}, expectedVersion=1)
    assert iot.describe_thing(thingName="unit-1")["version"] == 2
    with pytest.raises(iot.exceptions.VersionConflictException):
        iot.delete_thing(thingName="unit-1", expectedVersion=1)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_thing(thingName="unit-2")
    with pytest.raises(iot.exceptions.ResourceNotFoundException):  # by moto, in the words of the model
        iot.attach_policy(policyName="none", target="arn:aws:iot:us-east-1:123456789012:cert/00")


def test_what_hangs_together_is_told_page_by_page(aws: EmulatedAws) -> None:
    iot = client(aws)
    iot.create_thing_type(thingTypeName="gateway")
    iot.create_thing_group(thingGroupName="line-1")
    for number in range(7):
        kind = {"thingTypeName": "gateway"} if number % 2 else {}
        colour = {"attributes": {"colour": f"red-{number % 3}"}}
        iot.create_thing(thingName=f"unit-{number}", attributePayload=colour, **kind)
        iot.add_thing_to_thing_group(thingGroupName="line-1", thingName=f"unit-{number}")

    def names(**asked: Any) -> list[str]:
        paged = iot.get_paginator("list_things").paginate(PaginationConfig={"PageSize": 2}, **asked)
        return [one["thingName"] for page in paged for one in page["things"]]

    assert names() == [f"unit-{number}" for number in range(7)]
    assert names(thingTypeName="gateway") == ["unit-1", "unit-3", "unit-5"]
    assert names(attributeName="colour", attributeValue="red-1") == ["unit-1", "unit-4"]
    assert len(names(attributeName="colour", attributeValue="red", usePrefixAttributeValue=True)) == 7
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.list_things(attributeValue="red-1")
    iot.delete_thing(thingName="unit-3")
    grouped = iot.get_paginator("list_things_in_thing_group").paginate(
        thingGroupName="line-1", PaginationConfig={"PageSize": 4}
    )
    assert [len(page["things"]) for page in grouped] == [4, 2]
    csr, _ = request("unit-1")
    arn = iot.create_certificate_from_csr(certificateSigningRequest=csr)["certificateArn"]
    for number in range(11):
        iot.create_policy(policyName=f"p{number}", policyDocument=POLICY)
    for number in range(10):
        iot.attach_policy(policyName=f"p{number}", target=arn)
    with pytest.raises(iot.exceptions.LimitExceededException):
        iot.attach_policy(policyName="p10", target=arn)
    held = iot.get_paginator("list_attached_policies").paginate(target=arn, PaginationConfig={"PageSize": 4})
    assert [len(page["policies"]) for page in held] == [4, 4, 2]
    iot.attach_thing_principal(thingName="unit-1", principal=arn)
    with pytest.raises(iot.exceptions.ClientError, match="attached"):
        iot.delete_thing(thingName="unit-1")
    iot.detach_thing_principal(thingName="unit-1", principal=arn)
    assert iot.list_thing_principals(thingName="unit-1")["principals"] == []
    with pytest.raises(iot.exceptions.DeleteConflictException):
        iot.delete_certificate(certificateId=arn.rpartition("/")[2])
    iot.delete_certificate(certificateId=arn.rpartition("/")[2], forceDelete=True)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.attach_thing_principal(thingName="unit-1", principal=arn)


def registered(iot: Any, factory: Factory, name: str, **more: str) -> dict[str, Any]:
    ca, key = authority(factory)
    leaf = pem(certificate(name, ca, key)[0])
    values = {"ThingName": name, "Pem": leaf, "Ca": pem(ca), **more}
    made: dict[str, Any] = iot.register_thing(templateBody=TEMPLATE, parameters=values)
    return made


def test_a_template_is_carried_out_whole_or_not_at_all(factory: Factory, aws: EmulatedAws) -> None:
    iot = client(aws)
    known_ca(iot, factory)
    with pytest.raises(iot.exceptions.ResourceRegistrationFailureException, match="policy devices"):
        registered(iot, factory, "unit-1")
    assert iot.list_things()["things"] == []
    assert iot.list_certificates()["certificates"] == []
    iot.create_policy(policyName="devices", policyDocument=POLICY)
    made = registered(iot, factory, "unit-1")["resourceArns"]
    assert set(made) == {"thing", "certificate", "policy"}
    assert iot.describe_thing(thingName="unit-1")["attributes"] == {"made": "by-unit-1"}
    assert iot.list_thing_principals(thingName="unit-1")["principals"] == [made["certificate"]]
    assert iot.list_principal_things(principal=made["certificate"])["things"] == ["unit-1"]
    policies = iot.list_attached_policies(target=made["certificate"])["policies"]
    assert [one["policyName"] for one in policies] == ["devices"]
    with pytest.raises(iot.exceptions.ConflictingResourceUpdateException):
        registered(iot, factory, "unit-1")
    for wrong in ("{", json.dumps({"Resources": {}}), TEMPLATE.replace("Ref", "Fn::GetAZs")):
        with pytest.raises(iot.exceptions.InvalidRequestException):
            iot.register_thing(templateBody=wrong, parameters={"ThingName": "u", "Pem": "p", "Ca": "c"})
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.register_thing(templateBody=TEMPLATE + " " * 10_240, parameters={})
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.register_thing(templateBody=TEMPLATE, parameters={"ThingName": "unit-9"})
    assert len(iot.list_certificates()["certificates"]) == 1


def template(certificate: dict[str, Any], policy: dict[str, Any], **settings: str) -> str:
    thing = {
        "ThingName": "unit-1",
        "AttributePayload": {"a": {"Ref": "A"}},
        "ThingTypeName": "gateway",
        "ThingGroups": ["line-1"],
    }
    resources = {
        "thing": {"Type": "AWS::IoT::Thing", "Properties": thing, "OverrideSettings": settings},
        "certificate": {"Type": "AWS::IoT::Certificate", "Properties": certificate},
        "policy": {"Type": "AWS::IoT::Policy", "Properties": policy},
    }
    return json.dumps({"Parameters": {"A": {"Type": "String", "Default": "1"}}, "Resources": resources})


def test_templates_take_every_kind_of_certificate_and_override_as_they_say(factory: Factory, aws: EmulatedAws) -> None:
    iot, (ca, key) = client(aws), authority(factory)
    csr, own = request("unit-1")
    by_request, document = {"CertificateSigningRequest": csr}, {"PolicyDocument": json.loads(POLICY)}
    with pytest.raises(iot.exceptions.ResourceRegistrationFailureException, match="gateway"):
        iot.register_thing(templateBody=template(by_request, document))
    iot.create_thing_type(thingTypeName="gateway")
    iot.create_thing_group(thingGroupName="line-1")
    made = iot.register_thing(templateBody=template(by_request, document))
    assert x509.load_pem_x509_certificate(made["certificatePem"].encode()).public_key() == own.public_key()
    name = made["resourceArns"]["policy"].rpartition("/")[2]
    assert json.loads(iot.get_policy(policyName=name)["policyDocument"]) == json.loads(POLICY)
    assert iot.list_things_in_thing_group(thingGroupName="line-1")["things"] == ["unit-1"]
    iot.update_thing(thingName="unit-1", attributePayload={"attributes": {"b": "2"}})
    alone = {"CertificatePem": pem(certificate("unit-1", ca, key)[0]), "CertificateMode": "SNI_ONLY"}
    named = {"PolicyName": name}
    iot.register_thing(templateBody=template(alone, named))
    assert iot.describe_thing(thingName="unit-1")["attributes"] == {"b": "2"}
    iot.register_thing(templateBody=template(alone, named, AttributePayload="MERGE"))
    assert iot.describe_thing(thingName="unit-1")["attributes"] == {"a": "1", "b": "2"}
    iot.register_thing(templateBody=template(alone, named, AttributePayload="REPLACE"), parameters={"A": "3"})
    assert iot.describe_thing(thingName="unit-1")["attributes"] == {"a": "3"}
    held = iot.list_thing_principals(thingName="unit-1")["principals"]
    assert len(held) == 2
    by_id = {"CertificateId": held[0].rpartition("/")[2], "Status": "INACTIVE"}
    iot.register_thing(templateBody=template(by_id, named))
    statuses = {one["certificateArn"]: one["status"] for one in iot.list_certificates()["certificates"]}
    assert statuses == dict.fromkeys(held, "ACTIVE")  # the template does not say that it may be replaced
    for wrong in ({}, {"CertificatePem": "none"}, {"CertificateId": "0" * 64}):
        with pytest.raises(iot.exceptions.ClientError, match="RegisterThing"):
            iot.register_thing(templateBody=template(wrong, named))
    assert len(iot.list_certificates()["certificates"]) == 2


def test_of_many_at_once_one_registers_a_device(factory: Factory, aws: EmulatedAws) -> None:
    iot = client(aws)
    ca, key = known_ca(iot, factory)
    iot.create_policy(policyName="devices", policyDocument=POLICY)
    leaves = [pem(certificate(f"unit-{number}", ca, key)[0]) for number in range(4)]

    def attempt(number: int) -> str:
        values = {"ThingName": f"unit-{number % 4}", "Pem": leaves[number % 4], "Ca": pem(ca)}
        try:
            return str(len(iot.register_thing(templateBody=TEMPLATE, parameters=values)["resourceArns"]))
        except iot.exceptions.ConflictingResourceUpdateException:
            return "conflict"

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(attempt, range(32)))
    assert (seen.count("3"), seen.count("conflict")) == (4, 28)
    assert len(iot.list_certificates()["certificates"]) == 4


def test_provisioning_templates_have_versions_and_are_what_a_ca_refers_to(factory: Factory, aws: EmulatedAws) -> None:
    iot, said = client(aws), client(aws).exceptions
    asked = {"templateName": "line", "templateBody": TEMPLATE, "provisioningRoleArn": ROLE, "type": "JITP"}
    made = iot.create_provisioning_template(**asked, enabled=True, description="d")
    assert made["defaultVersionId"] == 1
    with pytest.raises(said.ResourceAlreadyExistsException):
        iot.create_provisioning_template(**asked)
    version = iot.create_provisioning_template_version(templateName="line", templateBody=TEMPLATE, setAsDefault=True)
    assert (version["versionId"], version["isDefaultVersion"]) == (2, True)
    shown = iot.describe_provisioning_template(templateName="line")
    assert (shown["defaultVersionId"], shown["type"], shown["enabled"]) == (2, "JITP", True)
    assert json.loads(shown["templateBody"]) == json.loads(TEMPLATE)
    iot.update_provisioning_template(templateName="line", defaultVersionId=1, enabled=False)
    first = iot.describe_provisioning_template_version(templateName="line", versionId=1)
    assert first["isDefaultVersion"] is True
    with pytest.raises(said.DeleteConflictException):
        iot.delete_provisioning_template_version(templateName="line", versionId=1)
    for _ in range(3):
        iot.create_provisioning_template_version(templateName="line", templateBody=TEMPLATE)
    with pytest.raises(said.VersionsLimitExceededException):
        iot.create_provisioning_template_version(templateName="line", templateBody=TEMPLATE)
    assert len(iot.list_provisioning_template_versions(templateName="line")["versions"]) == 5
    assert [one["templateName"] for one in iot.list_provisioning_templates()["templates"]] == ["line"]
    ca = pem(authority(factory)[0])
    config = {"templateName": "other"}
    with pytest.raises(said.ResourceNotFoundException):
        iot.register_ca_certificate(caCertificate=ca, certificateMode="SNI_ONLY", registrationConfig=config)
    iot.register_ca_certificate(
        caCertificate=ca, certificateMode="SNI_ONLY", registrationConfig={"templateName": "line"}
    )
    with pytest.raises(said.DeleteConflictException):
        iot.delete_provisioning_template(templateName="line")
    claim = iot.create_provisioning_claim(templateName="line")
    assert claim["certificateId"]
    assert "PRIVATE KEY" in claim["keyPair"]["PrivateKey"]


def wait(iot: Any, task: str) -> dict[str, Any]:
    for _ in range(200):
        shown: dict[str, Any] = iot.describe_thing_registration_task(taskId=task)
        if shown["status"] not in ("InProgress", "Cancelling"):
            return shown
        time.sleep(0.05)
    raise AssertionError("the task does not end")


def lines(iot: Any, task: str, kind: str) -> list[dict[str, Any]]:
    links = iot.list_thing_registration_task_reports(taskId=task, reportType=kind)["resourceLinks"]
    texts = [urlopen(link, timeout=10).read() for link in links]  # noqa: S310  the emulator's own http address
    return [json.loads(line) for text in texts for line in text.splitlines()]


def test_a_bulk_task_registers_each_line_and_reports_what_failed(factory: Factory, aws: EmulatedAws) -> None:
    iot, s3 = client(aws), client(aws, "s3")
    ca, key = known_ca(iot, factory)
    iot.create_policy(policyName="devices", policyDocument=POLICY)
    rows = [
        {"ThingName": f"unit-{n}", "Pem": pem(certificate(f"unit-{n}", ca, key)[0]), "Ca": pem(ca)} for n in range(20)
    ]
    rows[7]["Pem"] = "no certificate"
    body = "\n".join([*(json.dumps(row) for row in rows), "[]", ""])
    s3.create_bucket(Bucket="line-1")
    s3.put_object(Bucket="line-1", Key="devices.jsonl", Body=body)
    asked = {"templateBody": TEMPLATE, "inputFileBucket": "line-1", "inputFileKey": "devices.jsonl", "roleArn": ROLE}
    task = iot.start_thing_registration_task(**asked)["taskId"]
    shown = wait(iot, task)
    assert (shown["status"], shown["successCount"], shown["failureCount"]) == ("Completed", 19, 2)
    assert shown["percentageProgress"] == 100
    errors = lines(iot, task, "ERRORS")
    assert [(one["lineNumber"], one["errorCode"]) for one in errors] == [
        (8, "ResourceRegistrationFailureException"),
        (21, "InvalidRequestException"),
    ]
    results = lines(iot, task, "RESULTS")
    with EmulatedAws(account="210987654321") as other:  # a link leads to where the client came, and opens once known
        named = boto3.client("iot", endpoint_url=aws.url.replace("127.0.0.1", "localhost"), **KEYS)
        link = named.list_thing_registration_task_reports(taskId=task, reportType="RESULTS")["resourceLinks"][0]
        assert link.startswith(f"http://localhost:{aws.port}/")
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{other.url}/_{link.partition('/_')[2]}", timeout=10)  # noqa: S310
    assert len(results) == 19
    assert results[0]["response"]["ResourceArns"]["thing"].endswith("thing/unit-0")
    assert iot.list_thing_registration_tasks(status="Completed")["taskIds"] == [task]
    assert len([one for page in pages(iot, "list_certificates", 7) for one in page["certificates"]]) == 19
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.start_thing_registration_task(**{**asked, "inputFileKey": "missing"})
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_thing_registration_task(taskId="none")


def test_one_task_at_a_time_and_it_can_be_stopped(factory: Factory, aws: EmulatedAws) -> None:
    iot, s3 = client(aws), client(aws, "s3")
    s3.create_bucket(Bucket="line-1")
    s3.put_object(Bucket="line-1", Key="many", Body=b"{}\n" * 60_000)
    asked = {"templateBody": TEMPLATE, "inputFileBucket": "line-1", "inputFileKey": "many", "roleArn": ROLE}
    task = iot.start_thing_registration_task(**asked)["taskId"]
    with pytest.raises(iot.exceptions.InvalidRequestException, match="already running"):
        iot.start_thing_registration_task(**asked)
    iot.stop_thing_registration_task(taskId=task)
    shown = wait(iot, task)
    assert shown["status"] == "Cancelled"
    assert shown["failureCount"] < 60_000
    s3.put_object(Bucket="line-1", Key="few", Body=b"{}\n" * 10)
    aws.faults.set(FaultPlan(half_bulk=1.0))
    half = wait(iot, iot.start_thing_registration_task(**{**asked, "inputFileKey": "few"})["taskId"])
    assert half["status"] == "Failed"
    assert half["failureCount"] < 10


def faults(aws: EmulatedAws, token: str) -> Request:
    header = {"Authorization": f"Bearer {token}"}
    return Request(f"{aws.url}/_emulator/faults", b"{}", header, method="PUT")  # noqa: S310


def test_throttling_and_lost_answers_come_on_request(aws: EmulatedAws) -> None:
    iot = client(aws)
    aws.faults.set(FaultPlan(throttled=1.0))
    with pytest.raises(iot.exceptions.ThrottlingException):
        iot.list_things()
    aws.faults.set(FaultPlan(lost=1.0))
    with pytest.raises(ConnectionClosedError):
        iot.create_thing(thingName="unit-1")
    assert urlopen(faults(aws, aws.control_token), timeout=10).status == 204  # noqa: S310
    with pytest.raises(HTTPError, match="401"):
        urlopen(faults(aws, "wrong"), timeout=10)  # noqa: S310
    assert [one["thingName"] for one in iot.list_things()["things"]] == ["unit-1"]
    with EmulatedAws(account="210987654321", rates={"ListThings": 2}, monotonic=lambda: 0.0) as slow:
        other = client(slow)
        assert other.list_things()["things"] == other.list_things()["things"] == []
        with pytest.raises(other.exceptions.ThrottlingException):
            other.list_things()
    with pytest.raises(ValueError, match="emulated in this process already"), EmulatedAws():
        pass
    with pytest.raises(OSError, match="in use"), EmulatedAws(account="210987654321", port=aws.port):
        pass
    with pytest.raises(OSError, match="in use"), EmulatedAws(account="210987654321", mqtt_port=aws.mqtt_port):
        pass


@pytest.mark.parametrize(
    ("method", "path", "body", "length"),
    [
        ("POST", "/things", "{", None),
        ("POST", "/things", "[" * 5000, None),
        ("POST", "/things", "[]", None),
        ("POST", "/things", '{"templateBody": 1}', None),
        ("GET", "/things?maxResults=many", "", None),
        ("GET", "/things?" + "a=1&" * 100, "", None),
        ("POST", "/things", "", "9999999999"),
        ("PUT", "/cacertificate/" + "0" * 64 + "?newStatus=GONE", "", None),
    ],
)
def test_what_breaks_the_model_is_an_invalid_request(
    aws: EmulatedAws, method: str, path: str, body: str, length: str | None
) -> None:
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=AK/20261126/us-east-1/iot/aws4_request, Signature=0"}
    connection = HTTPConnection(aws.host, aws.port, timeout=10)
    connection.request(method, path, body or None, signed if length is None else {**signed, "Content-Length": length})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (400, "InvalidRequestException"), document
    assert client(aws).list_things()["things"] == []


def test_nothing_is_left_for_the_next_emulator() -> None:
    with EmulatedAws() as first:
        client(first).create_thing(thingName="unit-1")
        client(first, "s3").create_bucket(Bucket="line-1")
        client(first, "kms").create_key()
    with EmulatedAws() as second:
        assert client(second).list_things()["things"] == []
        assert client(second, "s3").list_buckets()["Buckets"] == []
        assert client(second, "kms").list_keys()["Keys"] == []


def test_the_example_of_the_page_runs_as_it_stands() -> None:
    names: dict[str, Any] = {}
    exec(PAGE.read_text().partition("```python\n")[2].partition("```")[0], names)  # noqa: S102  our own page
    with contextmanager(names["aws"].__wrapped__)() as running:  # the fixture, as pytest would call it
        names["test_my_registration"](running)


def test_the_command_of_the_page_answers_boto3_until_it_is_told_to_stop(tmp_path: Path) -> None:
    line = next(line for line in PAGE.read_text().splitlines() if line.startswith("    birthmark emulate aws"))
    program = str(Path(sys.executable).parent / "birthmark")
    started = subprocess.Popen(
        [program, *shlex.split(line)[1:], "--endpoint", "localhost"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        said = started.stdout.readline().split()
        files = tmp_path / said[said.index("files") + 1]
        assert (files / "connection.txt").stat().st_mode & 0o777 == 0o600
        assert "BEGIN CERTIFICATE" in (files / "root.pem").read_text()
        told = dict(row.split("=", 1) for row in (files / "connection.txt").read_text().splitlines())
        assert told["endpoint_url"] == said[said.index("endpoint") + 1]
        iot = boto3.client("iot", endpoint_url=told["endpoint_url"], **{**KEYS, "region_name": told["region"]})
        assert iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"] == "localhost"
        host, _, port = said[said.index("mqtt") + 1].partition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        started.terminate()
        assert started.wait(timeout=15) == 0
    finally:
        started.kill()
        started.wait()
        started.stdout.close() if started.stdout else None
