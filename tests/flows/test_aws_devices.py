"""Amazon's own clients against the emulated data plane of AWS IoT, with certificates of a test factory."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from birthmark.testing.aws import EmulatedAws
from birthmark.testing.aws.registry import Certificate
from support.awsworld import ROLE, authority, certificate, client, device_files, pem, proof, request
from support.pahodevice import connected, run, said_back, subscribed
from support.stationworld import Factory, build_factory
from support.vendortools import run_tool

CLIENT = Path(__file__).resolve().parents[1] / "support" / "awsdevices.py"
ALPN = "x-amzn-mqtt-ca"
POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "iot:Connect",
                "Resource": "arn:aws:iot:us-east-1:123456789012:client/${iot:Connection.Thing.ThingName}",
            },
            {
                "Effect": "Allow",
                "Action": ["iot:Publish", "iot:Receive", "iot:Subscribe"],
                "Resource": [
                    "arn:aws:iot:us-east-1:123456789012:topic/things/${iot:ClientId}/*",
                    "arn:aws:iot:us-east-1:123456789012:topicfilter/things/${iot:ClientId}/*",
                ],
            },
        ],
    }
)
OPEN = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}})
JITP = json.dumps(
    {
        "Parameters": {
            "AWS::IoT::Certificate::CommonName": {"Type": "String"},
            "AWS::IoT::Certificate::Organization": {"Type": "String"},
            "AWS::IoT::Certificate::Id": {"Type": "String"},
        },
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {
                    "ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"},
                    "AttributePayload": {"maker": {"Ref": "AWS::IoT::Certificate::Organization"}},
                },
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"},
            },
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "devices"}},
        },
    }
)
FLEET = json.dumps(
    {
        "Parameters": {"SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {"ThingName": {"Fn::Sub": "fleet-${SerialNumber}"}},
                "OverrideSettings": {"AttributePayload": "FAIL"},
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"},
            },
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "devices"}},
        },
        "DeviceConfiguration": {"FallbackUrl": "https://example.com/fallback"},
    }
)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("factory"))


@pytest.fixture
def aws() -> Iterator[EmulatedAws]:
    with EmulatedAws() as running:
        client(running).create_policy(policyName="devices", policyDocument=POLICY)
        yield running


def known_ca(aws: EmulatedAws, factory: Factory, **config: Any) -> str:
    """Register the issuing CA with proof of possession; return its id."""
    iot, (ca, key) = client(aws), authority(factory)
    code = iot.get_registration_code()["registrationCode"]
    made = iot.register_ca_certificate(
        caCertificate=pem(ca), verificationCertificate=proof(code, ca, key), setAsActive=True, **config
    )
    return str(made["certificateId"])


def device(factory: Factory, directory: Path, name: str, *, ended: bool = False, **subject: str) -> Path:
    ca, key = authority(factory)
    leaf, leaf_key = certificate(name, ca, key, ended=ended, **subject)
    return device_files(directory / name, leaf, leaf_key, ca)


def leaf_of(place: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates((place / "device.crt").read_bytes())[0]


def id_of(place: Path) -> str:
    return sha256(leaf_of(place).public_bytes(Encoding.DER)).hexdigest()


def register(aws: EmulatedAws, place: Path, status: str = "ACTIVE", *, alone: bool = False) -> None:
    """A thing, its certificate and what it may do, by single calls."""
    iot, name = client(aws), place.name
    call = iot.register_certificate_without_ca if alone else iot.register_certificate
    arn = call(certificatePem=pem(leaf_of(place)), status=status)["certificateArn"]
    iot.create_thing(thingName=name)
    iot.attach_thing_principal(thingName=name, principal=arn)
    iot.attach_policy(policyName="devices", target=arn)


def sdk(
    aws: EmulatedAws, place: Path, kind: str, work: str, port: int, alpn: str, *devices: Path
) -> dict[str, dict[str, Any]]:
    root = place / "server-root.pem"
    root.write_text(aws.root_pem)
    told = [f"{one.name}={one / 'device.crt'}={one / 'device.key'}" for one in devices]
    printed = run_tool("aws", "python", CLIENT, kind, work, root, aws.endpoint, str(port), alpn, *told)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"name"')]
    return {one["name"]: one for one in lines}


@pytest.mark.parametrize("kind", ["crt", "five", "old"])
def test_amazons_clients_get_in_with_active_certificates_alone(
    factory: Factory, aws: EmulatedAws, tmp_path: Path, kind: str
) -> None:
    known_ca(aws, factory)
    good, alone, revoked, inactive, ended, unknown = (
        device(factory, tmp_path, name, ended=name == "ended")
        for name in ("good", "alone", "revoked", "inactive", "ended", "unknown")
    )
    stranger, stranger_key = certificate("Foreign CA", *authority(factory), ca=True)
    foreign = device_files(tmp_path / "foreign", *certificate("foreign", stranger, stranger_key), stranger)
    register(aws, good)
    register(aws, alone, alone=True)
    register(aws, ended)
    register(aws, inactive, "INACTIVE")
    register(aws, revoked)
    client(aws).update_certificate(certificateId=id_of(revoked), newStatus="REVOKED")
    everybody = (good, alone, revoked, inactive, ended, unknown, foreign)
    seen = sdk(aws, tmp_path, kind, "echo", aws.mqtt_port, "-", *everybody)
    # the old client sends no SNI unless it uses ALPN, and a certificate without a CA needs it
    let_in = [name for name, said in seen.items() if "heard" in said]
    assert let_in == (["good"] if kind == "old" else ["good", "alone"])
    assert seen["good"]["heard"] == "hello good"
    assert len(seen) == 7
    if kind == "five":  # its builder asks for ALPN at port 443 alone
        return
    by_alpn = sdk(aws, tmp_path, kind, "echo", aws.alpn_port, ALPN, good, alone)
    assert [name for name, said in by_alpn.items() if "heard" in said] == ["good", "alone"]


def mqtt(
    aws: EmulatedAws, place: Path, port: int, *, host: str = "localhost", alpn: str | None = None
) -> paho.Client | None:
    return connected(place, place.name, aws.root_pem, host, port, alpn=alpn)


def online(aws: EmulatedAws, place: Path) -> paho.Client:
    made = mqtt(aws, place, aws.mqtt_port)
    assert made is not None
    return made


def test_a_certificate_without_a_ca_needs_the_servers_name(factory: Factory, aws: EmulatedAws, tmp_path: Path) -> None:
    known_ca(aws, factory)
    alone, known = device(factory, tmp_path, "alone"), device(factory, tmp_path, "known")
    register(aws, alone, alone=True)
    register(aws, known)
    assert mqtt(aws, alone, aws.mqtt_port)
    assert not mqtt(aws, alone, aws.mqtt_port, host=aws.host)
    assert mqtt(aws, known, aws.mqtt_port, host=aws.host)
    assert mqtt(aws, known, aws.alpn_port, alpn=ALPN)
    assert not mqtt(aws, known, aws.alpn_port, alpn="mqtt")


def test_a_policy_is_what_a_device_may_do_and_a_certificate_ends_it(
    factory: Factory, aws: EmulatedAws, tmp_path: Path
) -> None:
    known_ca(aws, factory)
    good, bare = device(factory, tmp_path, "good"), device(factory, tmp_path, "bare")
    register(aws, good)
    client(aws).register_certificate(certificatePem=pem(leaf_of(bare)), status="ACTIVE")
    assert not mqtt(aws, bare, aws.mqtt_port)
    made = online(aws, good)
    assert subscribed(made, "things/good/+")
    made.publish("things/good/a", b"1", 1)
    assert run(made, made.user_data_get)
    assert not subscribed(made, "things/#")
    made.publish("things/other/a", b"1")
    assert run(made, lambda: not made.is_connected())
    made = online(aws, good)
    client(aws).update_certificate(certificateId=id_of(good), newStatus="INACTIVE")
    made.publish("things/good/a", b"1")
    assert run(made, lambda: not made.is_connected())
    assert not mqtt(aws, good, aws.mqtt_port)


def test_a_device_of_a_known_ca_is_provisioned_when_it_first_connects(
    factory: Factory, aws: EmulatedAws, tmp_path: Path
) -> None:
    iot = client(aws)
    ca_id = known_ca(
        aws, factory, allowAutoRegistration=True, registrationConfig={"templateBody": JITP, "roleArn": ROLE}
    )
    unit = device(factory, tmp_path, "unit-7", ORGANIZATION_NAME="Example")
    assert not mqtt(aws, unit, aws.mqtt_port)
    shown = iot.describe_certificate(certificateId=id_of(unit))["certificateDescription"]
    assert (shown["status"], shown["caCertificateId"]) == ("ACTIVE", ca_id)
    assert iot.describe_thing(thingName="unit-7")["attributes"] == {"maker": "Example"}
    assert iot.list_thing_principals(thingName="unit-7")["principals"] == [shown["certificateArn"]]
    assert sdk(aws, tmp_path, "crt", "echo", aws.mqtt_port, "-", unit)["unit-7"]["heard"] == "hello unit-7"
    lacking = device(factory, tmp_path, "unit-8")  # the template asks for what its subject does not say
    for _ in range(2):
        assert not mqtt(aws, lacking, aws.mqtt_port)
    shown = iot.describe_certificate(certificateId=id_of(lacking))["certificateDescription"]
    assert shown["status"] == "PENDING_ACTIVATION"
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_thing(thingName="unit-8")


def test_without_a_template_an_event_tells_of_the_certificate(
    factory: Factory, aws: EmulatedAws, tmp_path: Path
) -> None:
    iot = client(aws)
    ca_id = known_ca(aws, factory, allowAutoRegistration=True)
    iot.create_policy(policyName="open", policyDocument=OPEN)
    listener = device(factory, tmp_path, "listener")
    register(aws, listener)
    iot.attach_policy(policyName="open", target=f"arn:aws:iot:us-east-1:123456789012:cert/{id_of(listener)}")
    made = online(aws, listener)
    assert subscribed(made, "$aws/events/certificates/registered/#")
    unit = device(factory, tmp_path, "unit-9")
    assert not mqtt(aws, unit, aws.mqtt_port)
    heard = made.user_data_get()
    assert run(made, lambda: heard)
    topic, event = heard[0][0], json.loads(heard[0][1])
    assert topic == f"$aws/events/certificates/registered/{ca_id}"
    assert (event["certificateId"], event["certificateStatus"]) == (id_of(unit), "PENDING_ACTIVATION")
    assert event["awsAccountId"] == "123456789012"
    iot.update_certificate(certificateId=id_of(unit), newStatus="ACTIVE")  # as whoever listens would
    iot.attach_policy(policyName="open", target=f"arn:aws:iot:us-east-1:123456789012:cert/{id_of(unit)}")
    assert said_back(online(aws, unit), "anything", b"1") == b"1"
    iot.update_ca_certificate(certificateId=ca_id, newAutoRegistrationStatus="DISABLE")
    other = device(factory, tmp_path, "unit-10")
    assert not mqtt(aws, other, aws.mqtt_port)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_certificate(certificateId=id_of(other))


def test_a_ca_may_name_its_template_and_an_sni_only_ca_wants_the_servers_name(
    factory: Factory, aws: EmulatedAws, tmp_path: Path
) -> None:
    iot = client(aws)
    asked = {"templateName": "line", "templateBody": JITP, "provisioningRoleArn": ROLE, "type": "JITP"}
    iot.create_provisioning_template(**asked, enabled=True)
    iot.register_ca_certificate(
        caCertificate=pem(authority(factory)[0]),
        certificateMode="SNI_ONLY",
        setAsActive=True,
        allowAutoRegistration=True,
        registrationConfig={"templateName": "line"},
    )
    unit = device(factory, tmp_path, "unit-1", ORGANIZATION_NAME="Example")
    assert not mqtt(aws, unit, aws.mqtt_port, host=aws.host)
    assert iot.list_certificates()["certificates"] == []
    assert not mqtt(aws, unit, aws.mqtt_port)
    assert [one["status"] for one in iot.list_certificates()["certificates"]] == ["ACTIVE"]
    assert not mqtt(aws, unit, aws.mqtt_port, host=aws.host)
    assert mqtt(aws, unit, aws.mqtt_port)


def test_a_will_is_heard_and_a_later_connection_goes_before(factory: Factory, aws: EmulatedAws, tmp_path: Path) -> None:
    known_ca(aws, factory)
    iot = client(aws)
    iot.create_policy(policyName="open", policyDocument=OPEN)
    places = [device(factory, tmp_path, name) for name in ("listener", "unit-1")]
    for place in places:
        register(aws, place)
        iot.attach_policy(policyName="open", target=f"arn:aws:iot:us-east-1:123456789012:cert/{id_of(place)}")
    listener = online(aws, places[0])
    assert subscribed(listener, "gone/+")
    first = connected(places[1], "unit-1", aws.root_pem, "localhost", aws.mqtt_port, will=("gone/unit-1", b"bye"))
    assert first is not None
    second = online(aws, places[1])
    assert run(first, lambda: not first.is_connected())
    heard = listener.user_data_get()
    assert run(listener, lambda: heard)
    assert heard == [("gone/unit-1", b"bye")]
    assert said_back(second, "things/unit-1/a", b"still here") == b"still here"
    second.disconnect()


def hears(made: paho.Client, text: bytes) -> bool:
    return run(made, lambda: ("both/a", text) in made.user_data_get())


def test_devices_of_both_versions_hear_one_another(factory: Factory, aws: EmulatedAws, tmp_path: Path) -> None:
    known_ca(aws, factory)
    iot = client(aws)
    iot.create_policy(policyName="open", policyDocument=OPEN)
    older, newer, bounded = (device(factory, tmp_path, name) for name in ("older", "newer", "bounded"))
    for place in (older, newer, bounded):
        register(aws, place)
    for place in (older, newer):
        iot.attach_policy(policyName="open", target=f"arn:aws:iot:us-east-1:123456789012:cert/{id_of(place)}")
    four = online(aws, older)
    five = connected(newer, "", aws.root_pem, "localhost", aws.mqtt_port, protocol=paho.MQTTv5)
    assert five is not None
    for one in (four, five):
        assert subscribed(one, "both/#")
    for sender, text in ((four, b"from 3.1.1"), (five, b"from 5")):
        sender.publish("both/a", text, 1)
        assert hears(sender, text)
        assert hears(five if sender is four else four, text)
    kept = connected(bounded, "bounded", aws.root_pem, "localhost", aws.mqtt_port, protocol=paho.MQTTv5)
    assert kept is not None
    assert not subscribed(kept, "both/#")
    assert said_back(kept, "things/bounded/a", b"own") == b"own"


def claim(aws: EmulatedAws, tmp_path: Path) -> Path:
    """A claim that may do everything, and the template it is for."""
    iot = client(aws)
    iot.create_policy(policyName="open", policyDocument=OPEN)
    iot.create_provisioning_template(templateName="fleet", templateBody=FLEET, provisioningRoleArn=ROLE, enabled=True)
    csr, key = request("claim")
    made = iot.create_certificate_from_csr(certificateSigningRequest=csr, setAsActive=True)
    iot.attach_policy(policyName="open", target=made["certificateArn"])
    return device_files(tmp_path / "claim", made["certificatePem"], key)


def test_amazons_identity_client_provisions_a_fleet_device_with_its_own_key(aws: EmulatedAws, tmp_path: Path) -> None:
    place = claim(aws, tmp_path)
    csr, key = request("unit-1")
    (tmp_path / "unit.csr").write_text(csr)
    seen = sdk(aws, tmp_path, "crt", f"fleet:fleet:{tmp_path / 'unit.csr'}", aws.mqtt_port, "-", place)["claim"]
    assert seen["thing"] == "fleet-claim"
    assert seen["configuration"] == {"FallbackUrl": "https://example.com/fallback"}
    own = x509.load_pem_x509_certificate(seen["pem"].encode())
    assert own.public_key() == key.public_key()
    unit = device_files(tmp_path / "fleet-claim", seen["pem"], key)
    assert "heard" in sdk(aws, tmp_path, "crt", "echo", aws.mqtt_port, "-", unit)["fleet-claim"]
    again = sdk(aws, tmp_path, "crt", f"fleet:fleet:{tmp_path / 'unit.csr'}", aws.mqtt_port, "-", place)["claim"]
    assert "409" in again["error"]  # the template refuses a second device of that number


def test_a_claim_of_the_service_provisions_by_its_template_and_does_nothing_else(
    aws: EmulatedAws, tmp_path: Path
) -> None:
    iot = client(aws)
    for name in ("fleet", "other"):
        iot.create_provisioning_template(templateName=name, templateBody=FLEET, provisioningRoleArn=ROLE, enabled=True)
    made = iot.create_provisioning_claim(templateName="fleet")
    key = load_pem_private_key(made["keyPair"]["PrivateKey"].encode(), None)
    place = device_files(tmp_path / "claim", made["certificatePem"], key)
    csr, own = request("unit-1")
    (tmp_path / "unit.csr").write_text(csr)
    seen = sdk(aws, tmp_path, "crt", f"fleet:fleet:{tmp_path / 'unit.csr'}", aws.mqtt_port, "-", place)["claim"]
    assert seen["thing"] == "fleet-claim"
    assert x509.load_pem_x509_certificate(seen["pem"].encode()).public_key() == own.public_key()
    refused = online(aws, place)
    assert not subscribed(refused, "things/#")
    refused.publish("$aws/provisioning-templates/other/provision/json", b"{}")
    assert run(refused, lambda: not refused.is_connected())
    held = aws.registry.certificates[made["certificateId"]]
    assert isinstance(held, Certificate)
    assert timedelta(minutes=4) < made["expiration"] - datetime.now(UTC) <= timedelta(minutes=5)
    held.ends = datetime.now(UTC)
    assert not mqtt(aws, place, aws.mqtt_port)


def ask(made: paho.Client, topic: str, members: Any, form: str = "json") -> tuple[str, Any]:
    heard = made.user_data_get()
    heard.clear()
    made.publish(topic, json.dumps(members) if form == "json" else cbor2.dumps(members), 1)
    assert run(made, lambda: heard)
    return heard[0][0].rpartition("/")[2], json.loads(heard[0][1]) if form == "json" else cbor2.loads(heard[0][1])


def test_fleet_provisioning_speaks_cbor_names_what_is_wrong_and_forgets_after_an_hour(tmp_path: Path) -> None:
    moment = [0.0]
    with EmulatedAws(monotonic=lambda: moment[0]) as aws:
        client(aws).create_policy(policyName="devices", policyDocument=POLICY)
        made = online(aws, claim(aws, tmp_path))
        assert subscribed(made, "$aws/certificates/#")
        assert subscribed(made, "$aws/provisioning-templates/#")
        asked = {"certificateSigningRequest": request("u")[0]}
        kind, own = ask(made, "$aws/certificates/create-from-csr/cbor", asked, "cbor")
        assert (kind, len(own["certificateId"])) == ("accepted", 64)
        place = "$aws/provisioning-templates/fleet/provision/cbor"
        told = {"certificateOwnershipToken": own["certificateOwnershipToken"], "parameters": {"SerialNumber": "1"}}
        assert ask(made, place, {**told, "parameters": {}}, "cbor")[1]["errorCode"] == "InvalidParameters"
        assert ask(made, place, told, "cbor") == (
            "accepted",
            {"thingName": "fleet-1", "deviceConfiguration": {"FallbackUrl": "https://example.com/fallback"}},
        )
        spent = ask(made, place, told, "cbor")
        assert (spent[0], spent[1]["errorCode"]) == ("rejected", "InvalidCertificateOwnershipToken")
        wrong = ask(made, "$aws/certificates/create-from-csr/json", {"certificateSigningRequest": "no"})
        assert (wrong[1]["statusCode"], wrong[1]["errorCode"]) == (400, "InvalidCertificateSigningRequest")
        missing = ask(made, "$aws/provisioning-templates/none/provision/json", told)
        assert missing[1]["statusCode"] == 404
        late = ask(made, "$aws/certificates/create/json", {})[1]
        assert "PRIVATE KEY" in late["privateKey"]
        moment[0] = 3601.0
        told = {"certificateOwnershipToken": late["certificateOwnershipToken"], "parameters": {"SerialNumber": "2"}}
        late_answer = ask(made, "$aws/provisioning-templates/fleet/provision/json", told)[1]
        assert late_answer["errorCode"] == "InvalidCertificateOwnershipToken"
        with pytest.raises(client(aws).exceptions.ResourceNotFoundException):
            client(aws).describe_certificate(certificateId=late["certificateId"])


@pytest.mark.parametrize("sent", [b"\x10\xff\xff\xff\xff\x01", b"\x30\x02\x00\x09", b"\x10\x04\x00\x04MQ"])
def test_what_is_not_mqtt_is_cut_off(factory: Factory, aws: EmulatedAws, tmp_path: Path, sent: bytes) -> None:
    known_ca(aws, factory)
    good = device(factory, tmp_path, "good")
    register(aws, good)
    context = ssl.create_default_context(cadata=aws.root_pem)
    context.load_cert_chain(good / "device.crt", good / "device.key")
    plain = socket.create_connection((aws.host, aws.mqtt_port), timeout=5)
    with context.wrap_socket(plain, server_hostname="localhost") as stream:
        stream.sendall(sent)
        assert stream.recv(16) == b""
    assert mqtt(aws, good, aws.mqtt_port)
