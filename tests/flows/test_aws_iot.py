"""AWS IoT told of devices: what the laws of the port leave open. boto3 against the emulated service, and moto alone."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from moto.server import ThreadedMotoServer

from birthmark.adapters.clouds.aws_iot import AwsIotCloud
from birthmark.adapters.clouds.aws_iot.facts import id_of
from birthmark.adapters.clouds.aws_iot.reports import fetch_report, read_errors, read_results
from birthmark.errors import Misconfigured, Refused, Unavailable
from birthmark.pki.awstemplate import bulk_template, just_in_time_template, parse_aws_template
from birthmark.ports.cloud import Registration
from birthmark.testing.aws.register import register_thing
from support.awsworld import device_files
from support.clouds.aws_iot import POLICY, REGION, ROLE, AwsFleet, AwsPlace, aws_place
from support.pahodevice import connected

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clouds" / "aws-iot.md").read_text()
WITH_POLICY = "policy=devices&policy_document=policy.json"
THING = f"mode=thing&{WITH_POLICY}"
BULK = f"mode=bulk&{WITH_POLICY}&bucket=lists&role={ROLE}"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[AwsPlace]:
    with aws_place(tmp_path, THING) as made:
        yield made


@pytest.fixture
def cloud(place: AwsPlace) -> Iterator[AwsIotCloud]:
    opened = place.open()
    opened.prepare([place.fleet.authority()], place.fleet.prove)
    yield opened
    opened.close()


def pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def kinds(outcomes: Any) -> list[str]:
    return [one.kind for one in outcomes]


class TestPreparing:
    def test_a_ca_proves_that_its_key_is_here_and_devices_are_not_let_in_by_it(
        self, place: AwsPlace, cloud: AwsIotCloud
    ) -> None:
        iot = place.client()
        ca = place.fleet.authority().certificates[0]
        shown = iot.describe_ca_certificate(certificateId=id_of(ca))["certificateDescription"]
        assert (shown["status"], shown["autoRegistrationStatus"], shown["certificateMode"]) == (
            "ACTIVE",
            "DISABLE",
            "DEFAULT",
        )
        twice = [place.fleet.authority(), place.fleet.authority()]
        assert len(cloud.prepare(twice, place.fleet.prove)) == 2
        assert place.fleet.proofs == [("issuing", iot.get_registration_code()["registrationCode"])]
        assert json.loads(iot.get_policy(policyName="devices")["policyDocument"]) == POLICY

    @pytest.mark.parametrize("query", ["mode=jitp&policy=devices&role=" + ROLE, f"{THING}&ca=sni-only"])
    def test_a_ca_with_other_settings_is_named_and_left_as_it_is(
        self, place: AwsPlace, cloud: AwsIotCloud, query: str
    ) -> None:
        held = dict(vars(next(iter(place.aws.registry.ca_certificates.values()))))
        with pytest.raises(Refused) as raised:
            place.open(query).prepare([place.fleet.authority()], place.fleet.prove)
        assert raised.value.code == "cloud.aws.ca.different"
        assert vars(next(iter(place.aws.registry.ca_certificates.values()))) == held

    def test_ten_of_one_subject_in_the_account_are_seen_before_anything_is_made(self, place: AwsPlace) -> None:
        crowd = place.fleet.crowd(11)
        iot = place.client()
        for one in crowd[:10]:
            iot.register_ca_certificate(caCertificate=pem(one.certificates[0]), certificateMode="SNI_ONLY")
        with pytest.raises(Refused) as raised:
            place.open().prepare(crowd[10:], place.fleet.prove)
        assert (raised.value.code, raised.value.facts["there"]) == ("cloud.aws.ca.subject", 10)
        assert "devices" not in place.aws.registry.policies

    def test_a_proof_by_another_key_is_never_sent(self, place: AwsPlace) -> None:
        with pytest.raises(Refused) as raised:
            place.open().prepare([place.fleet.authority()], lambda _, code: place.fleet.prove("second", code))
        assert raised.value.code == "cloud.aws.ca.unproven"
        assert "RegisterCACertificate" not in place.front.names

    def test_a_policy_is_compared_and_never_widened(self, place: AwsPlace, cloud: AwsIotCloud) -> None:
        (place.directory / "policy.json").write_text(json.dumps({**POLICY, "Statement": []}))
        with pytest.raises(Refused) as raised:
            place.open().prepare([], place.fleet.prove)
        assert raised.value.code == "cloud.aws.different"
        with pytest.raises(Refused) as raised:
            place.open("mode=thing&policy=none").prepare([], place.fleet.prove)
        assert raised.value.code == "cloud.aws.policy.missing"

    def test_a_deprecated_thing_type_is_named(self, place: AwsPlace) -> None:
        iot = place.client()
        iot.create_thing_type(thingTypeName="old")
        iot.deprecate_thing_type(thingTypeName="old")
        with pytest.raises(Refused) as raised:
            place.open(f"{THING}&thing_type=old").prepare([], place.fleet.prove)
        assert raised.value.code == "cloud.aws.different"

    def test_a_fleet_template_is_made_once_and_compared(self, place: AwsPlace) -> None:
        own = json.loads(just_in_time_template("devices", None, None))
        own["Parameters"]["Name"] = {"Type": "String"}
        own["Resources"]["thing"]["Properties"]["ThingName"] = {"Fn::Join": ["-", ["fleet", {"Ref": "Name"}]]}
        (place.directory / "fleet.json").write_text(json.dumps(own))
        query = f"{THING}&fleet=first-power-up&fleet_template=fleet.json&role={ROLE}"
        assert "fleet template first-power-up: made" in place.open(query).prepare([], place.fleet.prove)
        assert "fleet template first-power-up: is there, unchanged" in place.open(query).prepare([], place.fleet.prove)
        held = place.client().describe_provisioning_template(templateName="first-power-up")
        assert (held["type"], json.loads(held["templateBody"])) == ("FLEET_PROVISIONING", own)
        own["DeviceConfiguration"] = {"hall": "3"}
        (place.directory / "fleet.json").write_text(json.dumps(own))
        with pytest.raises(Refused) as raised:
            place.open(query).prepare([], place.fleet.prove)
        assert raised.value.code == "cloud.aws.different"
        (place.directory / "fleet.json").write_text(bulk_template("devices", None, None))
        with pytest.raises(Misconfigured):
            place.open(query)


class TestOneByOne:
    def test_a_certificate_of_another_name_on_the_thing_stays_as_it_is(
        self, place: AwsPlace, cloud: AwsIotCloud
    ) -> None:
        iot = place.client()
        iot.create_thing(thingName="lamp-1")
        other = iot.register_certificate_without_ca(
            certificatePem=pem(place.fleet.certificate("pump-7")), status="ACTIVE"
        )
        iot.attach_thing_principal(thingName="lamp-1", principal=other["certificateArn"])
        (outcome,) = cloud.tell([place.fleet.registration("lamp-1")])
        assert (outcome.kind, outcome.code) == ("refused", "cloud.aws.thing.foreign")
        held = iot.describe_certificate(certificateId=other["certificateId"])["certificateDescription"]
        assert held["status"] == "ACTIVE"
        assert other["certificateArn"] in iot.list_thing_principals(thingName="lamp-1")["principals"]

    def test_a_thing_of_another_type_is_not_taken_over(self, place: AwsPlace) -> None:
        typed = place.open(f"{THING}&thing_type=lamp")
        typed.prepare([place.fleet.authority()], place.fleet.prove)
        place.client().create_thing(thingName="lamp-1")
        (outcome,) = typed.tell([place.fleet.registration("lamp-1")])
        assert (outcome.kind, outcome.code) == ("refused", "cloud.aws.thing.type")

    def test_what_aws_shows_under_the_id_is_compared(self, place: AwsPlace, cloud: AwsIotCloud) -> None:
        told = place.fleet.registration("lamp-1")
        assert kinds(cloud.tell([told])) == ["done"]
        held = place.aws.registry.certificates[id_of(told.certificates[0])]
        held.certificate_pem = pem(place.fleet.certificate("lamp-1"))
        (outcome,) = cloud.tell([told])
        assert (outcome.kind, outcome.code) == ("refused", "cloud.aws.certificate.other")

    def test_a_blocked_device_loses_its_status_first_and_its_policy_after_it(
        self, place: AwsPlace, cloud: AwsIotCloud
    ) -> None:
        told = place.fleet.registration("lamp-1")
        cloud.tell([told])
        before = len(place.front.names)
        cloud.tell([Registration("lamp-1", "blocked", told.certificates, told.chain)])
        names = place.front.names[before:]
        assert names.index("UpdateCertificate") < names.index("DetachPolicy")
        (arn,) = place.client().list_thing_principals(thingName="lamp-1")["principals"]
        assert place.client().list_attached_policies(target=arn)["policies"] == []

    def test_a_policy_that_was_taken_away_comes_back(self, place: AwsPlace, cloud: AwsIotCloud) -> None:
        told, iot = place.fleet.registration("lamp-1"), place.client()
        cloud.tell([told])
        (arn,) = iot.list_thing_principals(thingName="lamp-1")["principals"]
        iot.detach_policy(policyName="devices", target=arn)
        assert kinds(cloud.tell([told])) == ["done"]
        assert [one["policyName"] for one in iot.list_attached_policies(target=arn)["policies"]] == ["devices"]

    def test_no_ca_and_sni_only_and_revoked(self, place: AwsPlace) -> None:
        iot, told = place.client(), place.fleet.registration("lamp-1", "blocked", ca="unknown")
        assert (
            "mode=no-ca" in place.open("mode=no-ca").prepare([place.fleet.authority("unknown")], place.fleet.prove)[-1]
        )
        assert kinds(place.open("mode=no-ca&blocked=revoked").tell([told])) == ["done"]
        held = iot.describe_certificate(certificateId=id_of(told.certificates[0]))["certificateDescription"]
        assert (held["status"], held["certificateMode"]) == ("REVOKED", "SNI_ONLY")
        sni = place.open("mode=certificate&ca=sni-only")
        sni.prepare([place.fleet.authority()], place.fleet.prove)
        assert place.fleet.proofs == []
        assert kinds(sni.tell([place.fleet.registration("lamp-2")])) == ["done"]

    def test_a_profile_that_is_not_there_and_an_answer_that_is_none(
        self, place: AwsPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(Misconfigured) as raised:
            place.open().tell([place.fleet.registration("lamp-1")])
        assert raised.value.code == "cloud.aws.credentials"
        monkeypatch.delenv("AWS_PROFILE")
        cloud = place.open()
        place.front._iot = lambda *asked: (200, {}, b"<html>")  # type: ignore[method-assign]
        for act in (lambda: cloud.tell([place.fleet.registration("lamp-1")]), lambda: cloud.page("")):
            with pytest.raises(Unavailable):
                act()
        place.front._iot = lambda *asked: (200, {}, b"{}")  # type: ignore[method-assign]
        with pytest.raises(Unavailable) as unanswered:
            cloud.tell([place.fleet.registration("lamp-1")])
        assert unanswered.value.code == "cloud.aws.answer"

    def test_each_operation_keeps_the_rate_of_the_uri(self, place: AwsPlace, cloud: AwsIotCloud) -> None:
        clock = [0.0]
        slow = AwsIotCloud(
            f"aws-iot:{REGION}?{THING}&rate=4&endpoint={place.aws.url}", secrets=_unasked, base=place.directory,
            monotonic=lambda: clock[0], sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds),
        )  # fmt: skip
        slow.tell([place.fleet.registration(f"lamp-{number}") for number in range(9)])
        assert clock[0] == pytest.approx(8 / 4)
        assert slow.limits.calls_a_minute / slow.calls_of([place.fleet.registration("lamp-1")]) == 4 * 60


class TestBulk:
    @pytest.fixture
    def bulk(self, place: AwsPlace, cloud: AwsIotCloud) -> AwsIotCloud:
        return place.open(BULK)

    def told(self, place: AwsPlace, count: int = 20) -> list[Registration]:
        return [place.fleet.registration(f"lamp-{number:03d}") for number in range(count)]

    def test_a_task_makes_them_all_and_its_file_is_taken_away(self, place: AwsPlace, bulk: AwsIotCloud) -> None:
        told, before = self.told(place), place.front.count
        assert set(kinds(bulk.tell(told))) == {"done"}
        assert place.front.count - before < 20
        assert "RegisterCertificate" not in place.front.names
        assert place.client("s3").list_objects_v2(Bucket="lists")["KeyCount"] == 0
        assert {record.key for record in bulk.page("").records} == {one.device_serial for one in told}
        assert set(kinds(place.open().tell(told))) == {"same"}

    @pytest.mark.parametrize("lost", ["StartThingRegistrationTask", "DescribeThingRegistrationTask",
                                      "ListThingRegistrationTaskReports"])  # fmt: skip
    def test_a_task_whose_answer_was_lost_is_found_by_its_file(
        self, place: AwsPlace, bulk: AwsIotCloud, lost: str
    ) -> None:
        told, place.front.lose = self.told(place), lost
        with pytest.raises(Unavailable):
            bulk.tell(told)
        assert set(kinds(place.open(BULK).tell(told))) == {"done"}
        assert len(place.aws.registry.tasks) == 1
        assert "RegisterCertificate" not in place.front.names

    def test_a_file_without_a_task_is_used_by_the_next(self, place: AwsPlace, bulk: AwsIotCloud) -> None:
        told, place.front.shut = self.told(place), True
        with pytest.raises(Misconfigured):
            bulk.tell(told)
        assert place.client("s3").list_objects_v2(Bucket="lists")["KeyCount"] == 1
        place.front.shut = False
        assert set(kinds(bulk.tell(told))) == {"done"}

    def test_what_a_task_left_is_told_one_by_one(self, place: AwsPlace, bulk: AwsIotCloud) -> None:
        told = self.told(place, 12)
        place.open().tell(told[3:5])
        strange = place.fleet.registration("lamp-strange", ca="never-told")
        place.aws.faults.set(type(place.aws.faults.plan)(seed=5, half_bulk=1.0))
        outcomes = bulk.tell([*told, strange])
        assert kinds(outcomes) == ["done"] * 3 + ["same"] * 2 + ["done"] * 7 + ["refused"]
        assert outcomes[-1].detail.startswith("CertificateValidationException")

    def test_a_serial_that_is_there_with_another_certificate_is_brought_to_what_was_told(
        self, place: AwsPlace, bulk: AwsIotCloud
    ) -> None:
        earlier = place.fleet.registration("lamp-001")
        place.open().tell([earlier])
        assert kinds(bulk.tell(self.told(place, 4))) == ["done"] * 4
        held = place.aws.registry.certificates[id_of(earlier.certificates[0])]
        assert held.status == "INACTIVE"

    def test_a_certificate_that_is_there_and_blocked_is_let_in_by_a_task(
        self, place: AwsPlace, bulk: AwsIotCloud
    ) -> None:
        told = self.told(place, 3)
        known = place.client().register_certificate(certificatePem=pem(told[1].certificates[0]), status="INACTIVE")
        assert kinds(bulk.tell(told)) == ["done"] * 3
        held = place.client().describe_certificate(certificateId=known["certificateId"])["certificateDescription"]
        assert held["status"] == "ACTIVE"
        assert "UpdateCertificate" not in place.front.names

    def test_a_task_of_somebody_else_is_waited_for_and_not_for_ever(self, place: AwsPlace, bulk: AwsIotCloud) -> None:
        place.client("s3").put_object(Bucket="lists", Key="theirs.json", Body=b"{}\n")
        place.client().start_thing_registration_task(
            templateBody=bulk_template("devices", None, None),
            inputFileBucket="lists",
            inputFileKey="theirs.json",
            roleArn=ROLE,
        )
        (theirs,) = place.aws.registry.tasks.values()
        while theirs.status == "InProgress":
            threading.Event().wait(0.01)
        theirs.status = "InProgress"
        with pytest.raises(Unavailable) as raised:
            place.open(BULK, sleep=lambda _: None).tell(self.told(place, 3))
        assert (raised.value.code, raised.value.facts["retry_after"]) == ("cloud.aws.busy", 60)
        theirs.status = "Completed"
        assert kinds(bulk.tell(self.told(place, 3))) == ["done"] * 3

    def test_a_template_of_ones_own_says_what_is_refused(self, place: AwsPlace, cloud: AwsIotCloud) -> None:
        own = json.loads(bulk_template("devices", "nothing", None))
        own["Resources"]["thing"]["Properties"]["AttributePayload"] = {"made": {"Ref": "SerialNumber"}}
        own["Parameters"]["SerialNumber"] = {"Type": "String"}
        (place.directory / "own.json").write_text(json.dumps(own))
        outcomes = place.open(f"{BULK}&template=./own.json").tell(self.told(place, 2))
        assert [(one.kind, one.code) for one in outcomes] == [("refused", "cloud.aws.refused")] * 2
        assert "nothing" in outcomes[0].detail
        place.client().create_thing_type(thingTypeName="nothing")
        assert kinds(place.open(f"{BULK}&template=./own.json").tell(self.told(place, 2))) == ["done"] * 2
        assert place.client().describe_thing(thingName="lamp-001")["attributes"] == {"made": "lamp-001"}

    def test_a_bucket_that_is_not_there_is_named(self, place: AwsPlace, cloud: AwsIotCloud) -> None:
        with pytest.raises(Misconfigured) as raised:
            place.open(BULK.replace("lists", "nowhere")).tell(self.told(place, 2))
        assert raised.value.code == "cloud.aws.bulk"


class TestReports:
    class Turn:
        """Gives links, and a clock; counts what is followed."""

        def __init__(self, *links: str) -> None:
            self.links, self.followed = links, 0

        def follow(self) -> None:
            self.followed += 1

        def iot(self, operation: str, **asked: Any) -> dict[str, Any]:
            return {"resourceLinks": list(self.links)}

        def now(self) -> float:
            return 0.0

    @pytest.mark.parametrize(
        "link",
        ["http://127.0.0.1:1/x?X-Amz-Signature=5ecre7", "file:///etc/passwd?5ecre7", "https://u:5ecre7@h/", "//["],
    )
    def test_a_link_is_followed_by_https_alone_and_never_shown(self, link: str) -> None:
        with pytest.raises(Unavailable) as raised:
            list(fetch_report(self.Turn(link), "t", "RESULTS", origin="http://127.0.0.1:2"))  # type: ignore[arg-type]
        assert raised.value.code == "cloud.aws.report"
        assert "5ecre7" not in json.dumps(raised.value.document())

    def test_a_link_that_answers_something_else_is_asked_for_again(self, place: AwsPlace) -> None:
        link = f"{place.aws.url}/_emulator/reports/none"
        with pytest.raises(Unavailable) as raised:
            list(fetch_report(self.Turn(link), "t", "RESULTS", origin=place.aws.url))  # type: ignore[arg-type]
        assert raised.value.facts["reason"] == "its link answers 404"

    def test_a_line_counts_by_the_arns_in_it_whatever_stands_around_them(self) -> None:
        arn, known_as = "arn:aws:iot:eu-west-1:123456789012", "ab" * 32
        lines = [
            json.dumps({"response": {"ResourceArns": {"t": f"{arn}:thing/a:1", "c": f"{arn}:cert/{known_as}"}}}),
            json.dumps({"certificateArn": f"{arn}:cert/{known_as}", "things": [f"{arn}:thing/b", f"{arn}:thing/c"]}),
            f'{{"x": "arn:aws:iot:eu-west-1:1:thing\\/d", "y": "arn:aws:iot::1:cert\\/{known_as}"}}',
            "\xff not json :thing/e",
            "",
        ]
        made = read_results(line.encode("latin-1") for line in lines)
        assert made == {"a:1": {known_as}, "d": {known_as}, "e": frozenset()}

    def test_errors_are_words_by_line_number_and_nothing_that_is_sent_stops_the_reading(self) -> None:
        lines = [
            b'{"lineNumber": 2, "errorCode": "No", "errorMessage": "x\\u001b[2J"}',
            b"[" * 100_000,
            b"7",
            b'{"a":1}',
        ]
        assert read_errors(iter(lines)) == {2: ("No", "x [2J")}


class TestJustInTime:
    QUERY = f"mode=jitp&{WITH_POLICY}&role={ROLE}"

    def test_a_device_costs_nothing_and_aws_can_carry_out_the_template(self, place: AwsPlace) -> None:
        cloud = place.open(self.QUERY)
        cloud.prepare([place.fleet.authority()], place.fleet.prove)
        told = place.fleet.registration("lamp-1")
        before = place.front.count
        assert kinds(cloud.tell([told] * 1)) == ["covered"]
        assert place.front.count - before <= 1, "the marked things are asked for once"
        assert kinds(cloud.tell([place.fleet.registration(f"lamp-{number}") for number in range(9)])) == ["covered"] * 9
        assert place.front.count - before <= 1
        ca = place.client().describe_ca_certificate(certificateId=id_of(told.chain[0]))
        assert ca["certificateDescription"]["autoRegistrationStatus"] == "ENABLE"
        made = place.client().register_certificate(
            certificatePem=pem(told.certificates[0]), status="PENDING_ACTIVATION"
        )
        register_thing(
            place.aws.registry,
            ca["registrationConfig"]["templateBody"],
            {"AWS::IoT::Certificate::CommonName": "lamp-1", "AWS::IoT::Certificate::Id": made["certificateId"]},
        )
        assert place.client().list_thing_principals(thingName="lamp-1")["principals"] == [made["certificateArn"]]
        assert cloud.page("").records == []

    def test_who_was_blocked_is_let_in_again_by_another_process(self, place: AwsPlace) -> None:
        cloud, told = place.open(self.QUERY), place.fleet.registration("lamp-1")
        cloud.prepare([place.fleet.authority()], place.fleet.prove)
        cloud.tell([Registration("lamp-1", "blocked", told.certificates, told.chain)])
        (record,) = cloud.page("").records
        assert (record.name, record.standing) == ("lamp-1", "blocked")
        assert kinds(place.open(self.QUERY).tell([told])) == ["done"]
        held = place.client().describe_certificate(certificateId=id_of(told.certificates[0]))["certificateDescription"]
        assert held["status"] == "ACTIVE"
        assert place.open(self.QUERY).page("").records == []

    def test_a_template_by_name_is_looked_at_before_a_ca_refers_to_it(self, place: AwsPlace) -> None:
        query = f"mode=jitp&template=first-power-up&profile=aws-iot&role={ROLE}"
        with pytest.raises(Refused) as raised:
            place.open(query).prepare([place.fleet.authority()], place.fleet.prove)
        assert raised.value.code == "cloud.aws.template.missing"
        body = just_in_time_template("devices", None, None)
        iot = place.client()
        iot.create_policy(policyName="devices", policyDocument=json.dumps(POLICY))
        iot.create_provisioning_template(
            templateName="first-power-up", templateBody=body, provisioningRoleArn=ROLE, type="JITP", enabled=True
        )
        cloud = place.open(query)
        cloud.prepare([place.fleet.authority()], place.fleet.prove)
        config = iot.describe_ca_certificate(certificateId=id_of(place.fleet.chain()[0]))["registrationConfig"]
        assert config == {"templateName": "first-power-up"}

    def test_a_template_that_names_what_the_certificate_lacks_is_refused_naming_both(self, place: AwsPlace) -> None:
        own = json.loads(just_in_time_template("devices", None, None))
        own["Parameters"]["AWS::IoT::Certificate::Country"] = {"Type": "String"}
        (place.directory / "own.json").write_text(json.dumps(own))
        query = f"mode=jitp&template=./own.json&role={ROLE}"
        with pytest.raises(Misconfigured) as by_profile:
            place.open(f"{query}&profile=aws-iot")
        assert by_profile.value.code == "cloud.aws.template.profile"
        assert (by_profile.value.facts["parameter"], by_profile.value.facts["profile"]) == (
            "AWS::IoT::Certificate::Country",
            "aws-iot",
        )
        cloud, told = place.open(query), place.fleet.registration("lamp-1")
        with pytest.raises(Refused) as by_device:
            cloud.expected(told)
        assert by_device.value.code == "cloud.aws.template.subject"
        assert cloud.tell([told])[0].code == "cloud.aws.template.subject"


@pytest.mark.parametrize("query", [THING, BULK, TestJustInTime.QUERY], ids=["thing", "bulk", "jitp"])
def test_who_connects_is_who_was_told(place: AwsPlace, query: str) -> None:
    """Devices with their keys at the data plane: let in, blocked while it is connected, let in again, reworked."""
    cloud, fleet = place.open(query), place.fleet
    cloud.prepare([fleet.authority()], fleet.prove)
    good, other, untold = (fleet.registration(f"lamp-{number}") for number in range(3))

    def files(one: Registration, name: str) -> Path:
        leaf, *above = map(x509.load_der_x509_certificate, (*one.certificates, *one.chain))
        return device_files(place.directory / name, leaf, fleet.keys[one.device_serial], *above)

    def let_in(files: Path, name: str) -> bool:
        # The first connection of a just-in-time device ends, once AWS knows it: devices try again.
        tries = range(2) if "jitp" in query else range(1)
        return any(connected(files, name, place.aws.root_pem, "localhost", place.aws.mqtt_port) for _ in tries)

    own = {one.device_serial: files(one, one.device_serial) for one in (good, other, untold)}
    cloud.tell([good, other])
    assert let_in(own["lamp-0"], "lamp-0")
    assert let_in(own["lamp-1"], "lamp-1")
    assert not let_in(own["lamp-0"], "lamp-1"), "the policy lets a device in under its own name alone"
    assert let_in(own["lamp-2"], "lamp-2") == ("jitp" in query)
    cloud.tell([Registration("lamp-0", "blocked", good.certificates, good.chain)])
    assert not let_in(own["lamp-0"], "lamp-0")
    cloud.tell([good])
    assert let_in(own["lamp-0"], "lamp-0")
    if "jitp" not in query:
        reworked = fleet.registration("lamp-1")
        cloud.tell([reworked])
        assert let_in(files(reworked, "reworked"), "lamp-1")
        assert not let_in(own["lamp-1"], "lamp-1")


def test_a_million_devices_by_mode(place: AwsPlace) -> None:
    """The table of the page says the same."""
    found = {}
    for query in (THING, "mode=certificate", "mode=no-ca", BULK, TestJustInTime.QUERY, "mode=jitr"):
        cloud = AwsIotCloud(f"aws-iot:{REGION}?{query}", secrets=_unasked, base=place.directory)
        estimate = cloud.estimate(1_000_000, [place.fleet.authority()])
        assert estimate.obstacles == ()
        found[query.partition("&")[0]] = (estimate.steps[1].calls, round(estimate.steps[1].minutes / 60))
        assert "quotas" in estimate.steps[1].why or query == "mode=jitr"
    assert found == {
        "mode=thing": (5_000_000, 28),
        "mode=certificate": (4_000_000, 28),
        "mode=no-ca": (4_000_000, 28),
        "mode=bulk": (12_000, 28),
        "mode=jitp": (0, 0),
        "mode=jitr": (0, 0),
    }
    for mode, (calls, _) in found.items():
        (row,) = [line for line in PAGE.split("\n") if line.startswith(f"| `{mode[5:]}`")]
        assert f"{calls:,}" in row


def test_every_example_on_the_page_is_what_is_sent_or_read() -> None:
    bodies = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    line, just_in_time, bulk, policy = bodies
    assert just_in_time == json.loads(just_in_time_template("devices", None, None))
    assert bulk == json.loads(bulk_template("devices", None, None))
    parse_aws_template(json.dumps(just_in_time)).require_just_in_time()
    parse_aws_template(json.dumps(bulk)).require_bulk()
    assert set(line) == set(bulk["Parameters"])
    assert policy["Statement"][0]["Resource"].endswith(POLICY["Statement"][0]["Resource"].rpartition(":")[2])  # type: ignore[index]


def test_every_uri_on_the_page_is_taken(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    (tmp_path / "jitp.json").write_text(just_in_time_template("devices", None, None))
    uris = re.findall(r"^aws-iot:\S+$", PAGE, re.MULTILINE)
    assert len(uris) == 4
    for uri in uris:
        assert AwsIotCloud(uri, secrets=_unasked, base=tmp_path).name == "aws-iot:eu-west-1"


def test_moto_alone_takes_what_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without our part of the emulator: moto names a certificate by the hash of its PEM, and no id is trusted."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    fleet, url = AwsFleet(), f"http://{host}:{port}"
    boto3.client("iot", region_name=REGION, endpoint_url=url).create_policy(
        policyName="devices", policyDocument=json.dumps(POLICY)
    )
    uri = f"aws-iot:{REGION}?mode=thing&policy=devices&rate=1000&endpoint={url}"
    cloud = AwsIotCloud(uri, secrets=_unasked, base=tmp_path)
    told = [fleet.registration("lamp-1"), fleet.registration("lamp-2", certificates=2)]
    blocked = Registration("lamp-1", "blocked", told[0].certificates, told[0].chain)
    assert kinds(cloud.tell(told)) == ["done", "done"]
    assert kinds(cloud.tell(told)) == ["same", "same"]
    assert kinds(cloud.tell([blocked, fleet.registration("lamp-2")])) == ["done", "done"]
    records = {record.key: record for record in cloud.page("").records}
    assert records["lamp-1"] == cloud.expected(blocked)
    assert len(records["lamp-2"].certificates) == 1
    cloud.close()
    server.stop()


def _unasked(reference: str) -> Any:
    raise AssertionError(reference)
