"""Every door of a cloud keeps the laws of its port: who is let in, who is not, and that nobody waits for ever."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.x509.oid import NameOID

from birthmark.adapters.clouds.aws_iot import AwsIotCloud
from birthmark.adapters.clouds.azure_dps import AzureDpsCloud
from birthmark.adapters.devicetls import FileIdentity, HeldIdentity
from birthmark.errors import DeviceFault, Refused, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from birthmark.ports.admission import Admits, DeviceTls, Door
from birthmark.testing.dps import EmulatedDps
from birthmark.workflow.line.fence import DeadlineFence
from support.devicepki import issuing_key, pool_credential
from support.dpsservice import dps_call, signer, verify_ca, x509_enrolment
from support.mosquitto import broker

KNOWN, NAME = pool_credential("SN-1"), "SN-1"


@dataclass
class World:
    """A cloud that knows the CA of ``KNOWN``, and its door, or the same door at another port."""

    cloud: type
    uri: Callable[[int], str]
    base: Path
    port: int

    def door(self, port: int | None = None) -> Door:
        return self.cloud.door(self.uri(port or self.port), base=str(self.base))


def azure(directory: Path) -> Iterator[World]:
    with EmulatedDps(mqtt_port=0, assigning_s=0) as dps:
        (directory / "trust.pem").write_text(dps.root_pem)
        issuing = x509.load_der_x509_certificate(KNOWN.chain[0])
        verify_ca(dps, issuing, signer(issuing, issuing_key()))
        assert dps_call(dps, "PUT", "/enrollmentGroups/g", x509_enrolment("signingCertificates", issuing))[0] == 200
        options = f"key=env:NOBODY&scope={dps.id_scope}&trust=trust.pem"
        yield World(
            AzureDpsCloud,
            lambda port: f"azure-dps:{dps.host}?{options}&device-host={dps.host}:{port}",
            directory,
            dps.https_port,
        )


def aws(directory: Path) -> Iterator[World]:
    with broker(directory / "broker", KNOWN.chain) as running:
        options = f"policy=p&device_trust={running.trust}"
        yield World(
            AwsIotCloud,
            lambda port: f"aws-iot:us-east-1?{options}&device_endpoint=localhost:{port}",
            directory,
            running.port,
        )


@pytest.fixture(params=[azure, aws], ids=["azure-dps", "aws-iot"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    yield from request.param(tmp_path)


def held(credential: Credential) -> DeviceTls:
    assert credential.private_key is not None
    return HeldIdentity((credential.certificate, *credential.chain[:1]), credential.private_key)


def in_files(place: Path, credential: Credential) -> FileIdentity:
    assert credential.private_key is not None
    place.mkdir()
    key = load_der_private_key(credential.private_key.reveal(), None)
    with os.fdopen(os.open(place / "device.key", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    chain = (x509.load_der_x509_certificate(der) for der in (credential.certificate, credential.chain[0]))
    (place / "device.crt").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
    return FileIdentity(place / "device.crt", place / "device.key")


def fence(seconds: float) -> DeadlineFence:
    return DeadlineFence("t", seconds=seconds, monotonic=time.monotonic, lock=threading.Lock())


def test_the_class_has_a_door_that_opens_no_secret(world: World) -> None:
    assert isinstance(world.cloud, Admits)
    world.door()


def test_again_is_the_same_again_whoever_holds_the_key(world: World) -> None:
    door = world.door()
    first, second = (door.admit(held(KNOWN), fence(20)) for _ in range(2))
    filed = door.admit(in_files(world.base / "device", KNOWN), fence(20))
    assert {(one.device_name, one.assigned_to, one.cert_sha256) for one in (first, second, filed)} == {
        (NAME, first.assigned_to, first.cert_sha256)
    }
    assert (first.held_by, filed.held_by) == ("station", "device")
    assert first.assigned_to


def test_a_key_that_is_not_that_of_the_certificate_connects_nowhere(world: World) -> None:
    mixed = Credential(NAME, KNOWN.certificate, KNOWN.chain, pool_credential("SN-2").private_key, 1, 2)
    with pytest.raises(DeviceFault) as caught:
        world.door(1).admit(held(mixed), fence(5))
    assert caught.value.code == "handshake.credential"


def test_a_stranger_is_refused_with_the_clouds_own_answer(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    own = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    secret = Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(Refused) as caught:
        world.door().admit(HeldIdentity((own,), secret), fence(5))
    assert caught.value.code.startswith("cloud.admit.")
    assert caught.value.facts["answer"]


def test_a_cloud_without_an_answer_costs_no_more_than_the_time(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            world.door(silent.getsockname()[1]).admit(held(KNOWN), fence(0.5))
    assert time.monotonic() - began < 1.5
    assert caught.value.code.startswith("cloud.admit.")
    assert caught.value.message.isprintable()
    with pytest.raises(Unavailable):
        world.door().admit(held(KNOWN), fence(0))


def test_a_device_without_a_name_is_refused_before_anything_is_sent(world: World) -> None:
    nameless = pool_credential("SN/1\u00e9")
    with pytest.raises(Refused) as caught:
        world.door(1).admit(held(nameless), fence(5))
    assert caught.value.code == "cloud.admit.name"
