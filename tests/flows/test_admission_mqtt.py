"""A device is let in by a real MQTT broker over mutual TLS, as AWS IoT asks for it: server name, protocol name."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from birthmark.adapters.clouds.aws_iot import AwsIotCloud
from birthmark.adapters.clouds.aws_iot import device as aws_device
from birthmark.adapters.clouds.aws_iot.device import AwsIotDevices
from birthmark.adapters.devicetls import FileIdentity, TokenIdentity
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports.admission import TlsServer
from birthmark.testing.aws import EmulatedAws
from birthmark.wire.receipt import open_receipt
from birthmark.workflow.line.fence import DeadlineFence
from support.awsworld import JITP_TEMPLATE, ROLE, client, pem, proof
from support.devicepki import pool_credential
from support.mosquitto import HOST, Broker, broker
from support.mqttgate import gate
from support.softhsm import MODULE, PIN, SoftHsm
from support.stationworld import BORN, POOLED, Line, build_factory


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with build_factory(tmp_path_factory.mktemp("mqtt") / "factory").line() as opened:
        yield opened


@pytest.fixture(scope="module")
def mosquitto(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(tmp_path_factory.mktemp("broker") / "b", line.chain_of("issuing")) as running:
        yield running


def fence(seconds: float = 10.0) -> DeadlineFence:
    return DeadlineFence("t", seconds=seconds, monotonic=time.monotonic, lock=threading.Lock())


def files_of(line: Line, device_serial: str) -> FileIdentity:
    directory = line.factory.root / "out" / device_serial
    return FileIdentity(directory / "device.crt", directory / "device.key")


def cloud(mosquitto: Broker, **more: Any) -> AwsIotDevices:
    return AwsIotDevices(**{"host": HOST, "port": mosquitto.port, "trust": str(mosquitto.trust), **more})


def refused(cloud: AwsIotDevices, identity: Any, seconds: float = 10.0) -> BirthmarkError:
    with pytest.raises(BirthmarkError) as caught:
        cloud.admit(identity, fence(seconds))
    return caught.value


def test_the_receipt_says_that_the_broker_let_the_device_in(line: Line, mosquitto: Broker) -> None:
    for device_serial in (POOLED[0], BORN[0]):
        identity = files_of(line, device_serial)
        outcome = line.provision(device_serial, admit=lambda held, one=identity: cloud(mosquitto).admit(one, fence()))
        said = open_receipt(outcome.receipt, line.vkey()).cloud
        assert (said.service, said.host, said.device_name, said.key) == ("aws-iot", HOST, device_serial, "device")
        assert f"as {device_serial} (p2, c1, k60, u'{device_serial}')" in mosquitto.log.read_text()


def test_its_policy_is_seen_to_be_in_force(line: Line, mosquitto: Broker) -> None:
    line.provision(POOLED[0])
    own = cloud(mosquitto, topic="things/{name}/up").admit(files_of(line, POOLED[0]), fence())
    assert own.device_name == POOLED[0]
    # Mosquitto grants every subscription and delivers what is allowed; AWS IoT refuses, as the standard has it.
    trouble = refused(cloud(mosquitto, topic="a/{name}"), Saying(b"\x20\x02\x00\x00\x90\x03\x00\x01\x80"))
    assert (type(trouble), trouble.code, trouble.facts["answer"]) == (Refused, "cloud.admit.refused", "suback 128")


class Elsewhere:
    """Connects to another port than the one that is named: nobody but root may listen at 443."""

    held_by = "device"

    def __init__(self, identity: FileIdentity, port: int) -> None:
        self._identity, self._port = identity, port
        self.certificates = identity.certificates

    def connect(self, server: TlsServer, seconds: float) -> Any:
        return self._identity.connect(replace(server, port=self._port), seconds)


def test_on_port_443_the_protocol_is_named_and_the_server_always(line: Line, mosquitto: Broker) -> None:
    line.provision(POOLED[0])
    with gate(mosquitto.port) as before:
        for port in (8883, 443):
            cloud(mosquitto, port=port).admit(Elsewhere(files_of(line, POOLED[0]), before.port), fence())
    assert before.hellos == [(HOST, ()), (HOST, ("x-amzn-mqtt-ca",))]


def test_connections_dropped_while_the_cloud_makes_the_device_known_are_made_again(
    line: Line, mosquitto: Broker
) -> None:
    line.provision(POOLED[0])
    waited: list[float] = []
    with gate(mosquitto.port, drops=2) as before:
        patient = cloud(mosquitto, port=before.port, sleep=waited.append)
        assert patient.admit(files_of(line, POOLED[0]), fence()).device_name == POOLED[0]
        assert len(before.hellos) == 3
    assert sum(waited) == pytest.approx(1.5)


def test_a_device_that_stays_unknown_is_refused_and_one_without_a_broker_is_not(line: Line, mosquitto: Broker) -> None:
    foreign = pool_credential("SN-FOREIGN")
    place = line.factory.root / "foreign"
    stranger = write_identity(place, foreign.private_key, foreign.certificate, *foreign.chain[:1])
    trouble = refused(cloud(mosquitto, sleep=lambda seconds: None), stranger)
    assert (type(trouble), trouble.code) == (Refused, "cloud.admit.dropped")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line.provision(POOLED[0])
    nobody = refused(cloud(mosquitto, port=port, sleep=lambda seconds: None), files_of(line, POOLED[0]))
    assert (type(nobody), nobody.code) == (Unavailable, "cloud.admit.unreachable")


def test_a_revoked_device_is_refused(line: Line, tmp_path: Path) -> None:
    line.provision(POOLED[1])
    certificate = x509.load_der_x509_certificate(files_of(line, POOLED[1]).certificates()[0])
    crls = b"".join(
        revocation_list(line, name, [certificate.serial_number] if name == "issuing" else [])
        for name in ("issuing", "root")
    )
    with broker(tmp_path / "b", line.chain_of("issuing"), crl=crls) as strict:
        line.provision(POOLED[0])
        assert cloud(strict).admit(files_of(line, POOLED[0]), fence()).device_name == POOLED[0]
        trouble = refused(cloud(strict, sleep=lambda seconds: None), files_of(line, POOLED[1]))
    assert trouble.code == "cloud.admit.dropped"
    assert "certificate verify failed" in strict.log.read_text()


class Saying:
    """A device whose broker says the same to it on each connection, whatever it asks."""

    held_by = "device"

    def __init__(self, said: bytes) -> None:
        self._said, self._rest = said, b""
        self.heard: list[bytes] = []

    def certificates(self) -> list[bytes]:
        return [pool_credential("SN-1").certificate]

    def connect(self, server: TlsServer, seconds: float) -> Any:
        self._rest = self._said
        return self

    def send(self, data: bytes, seconds: float) -> None:
        self.heard.append(data)

    def receive(self, most: int, seconds: float) -> bytes:
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    def close(self) -> None:
        self._rest = b""


@pytest.mark.parametrize(
    "said",
    [
        b"\x00" * 8,
        b"\x20\x7f" + b"a" * 127,
        b"\x20\xff\xff\xff\xff",
        b"\x20\x02\x09\x00",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"",
    ],
    ids=["zeros", "long", "endless", "flags", "http", "nothing"],
)
def test_what_is_not_mqtt_is_never_believed(line: Line, mosquitto: Broker, said: bytes) -> None:
    assert refused(cloud(mosquitto, sleep=lambda seconds: None), Saying(said)).code == "cloud.admit.dropped"


@pytest.mark.parametrize("code", sorted(aws_device.CONNACK_NAMES))
def test_each_answer_of_a_broker_has_its_meaning(mosquitto: Broker, code: int) -> None:
    saying = Saying(b"\x20\x02\x00" + bytes([code]))
    trouble = refused(cloud(mosquitto, sleep=lambda seconds: None), saying)
    assert saying.heard == [b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04SN-1"] * (3 if code == 3 else 1)
    assert trouble.code == ("cloud.admit.unreachable" if code == 3 else "cloud.admit.refused")


def test_a_key_inside_a_token_is_let_in(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.devicetoken import start_tokens

    start_tokens(tmp_path / "tokens", monkeypatch)
    used = pool_credential("SN-7")
    hsm = SoftHsm(tmp_path / "hsm")
    for name, value in hsm.environment.items():
        monkeypatch.setenv(name, value)
    hsm.make_token("SN 7")
    place = write_identity(tmp_path / "key", used.private_key, used.certificate)
    imported = ("--import", str(place.private_key), "--token", "SN 7", "--label", "key", "--id", "01", "--pin", PIN)
    hsm.run("softhsm2-util", *imported)
    token = TokenIdentity(MODULE, "SN 7", "key", Secret(PIN.encode()), (used.certificate, *used.chain[:1]))
    with broker(tmp_path / "b", used.chain) as running, gate(running.port) as before:
        admitted = cloud(running, port=before.port).admit(token, fence())
        assert (admitted.device_name, admitted.held_by) == ("SN-7", "device")
        assert before.hellos == [(HOST, ())]
        wrong = TokenIdentity(MODULE, "SN 7", "key", Secret(b"0000"), token.chain)
        assert refused(cloud(running), wrong).code == "handshake.pin"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        assert refused(cloud(running, port=port, sleep=lambda s: None), token).code == "cloud.admit.unreachable"


def write_identity(place: Path, secret: Secret | None, *chain: bytes) -> FileIdentity:
    assert secret is not None
    place.mkdir()
    pem = load_der_private_key(secret.reveal(), None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(place / "device.key", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(pem)
    (place / "device.crt").write_bytes(
        b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
    )
    return FileIdentity(place / "device.crt", place / "device.key")


def revocation_list(line: Line, ca: str, revoked: list[int]) -> bytes:
    issuer = x509.load_der_x509_certificate(line.records.ca(ca).certificate)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(issuer.subject, now - timedelta(hours=1), now + timedelta(days=1))
    for number in revoked:
        one = x509.RevokedCertificateBuilder(number, now - timedelta(hours=1)).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign(line.factory.read_key(ca), hashes.SHA256()).public_bytes(Encoding.PEM)


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
                "Action": "iot:Subscribe",
                "Resource": "arn:aws:iot:us-east-1:123456789012:topicfilter/things/${iot:ClientId}/*",
            },
        ],
    }
)


def test_a_device_is_made_known_by_its_first_visit_to_the_emulated_aws(line: Line, tmp_path: Path) -> None:
    for device_serial in (POOLED[0], POOLED[2]):
        line.provision(device_serial)
    with EmulatedAws() as aws:
        iot, key = client(aws), line.factory.read_key("issuing")
        ca = x509.load_der_x509_certificate(line.chain_of("issuing")[0])
        iot.create_policy(policyName="devices", policyDocument=POLICY)
        (tmp_path / "aws.pem").write_text(aws.root_pem)
        address = f"{aws.endpoint}:{aws.mqtt_port}"
        uri = f"aws-iot:us-east-1?policy=devices&device_endpoint={address}&device_trust=aws.pem"
        at_once = AwsIotCloud.door(f"{uri}&device_topic=things/{{name}}/in", base=str(tmp_path))
        assert refused(at_once, files_of(line, POOLED[0]), 2.0).code == "cloud.admit.dropped"
        code = iot.get_registration_code()["registrationCode"]
        config = {"templateBody": JITP_TEMPLATE, "roleArn": ROLE}
        iot.register_ca_certificate(
            caCertificate=pem(ca), verificationCertificate=proof(code, ca, key), setAsActive=True,
            allowAutoRegistration=True, registrationConfig=config,
        )  # fmt: skip
        assert at_once.admit(files_of(line, POOLED[0]), fence()).device_name == POOLED[0]
        assert iot.describe_thing(thingName=POOLED[0])["thingName"] == POOLED[0]
        assert at_once.admit(files_of(line, POOLED[0]), fence()).assigned_to == aws.endpoint
        elsewhere = AwsIotCloud.door(f"{uri}&device_topic=things/other/in", base=str(tmp_path))
        assert refused(elsewhere, files_of(line, POOLED[0]), 3.0).code.startswith("cloud.admit.")
        (known,) = iot.list_certificates()["certificates"]
        iot.update_certificate(certificateId=known["certificateId"], newStatus="REVOKED")
        assert refused(at_once, files_of(line, POOLED[0]), 2.0).code == "cloud.admit.dropped"


def test_where_devices_connect_has_to_be_said(tmp_path: Path) -> None:
    for uri in ("aws-iot:us-east-1?policy=p", "aws-iot:us-east-1?policy=p&device_endpoint=-x"):
        with pytest.raises(Misconfigured):
            AwsIotCloud.door(uri, base=str(tmp_path))
