"""A device is let into its cloud before the box is closed: the station's view, against the emulated service."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from birthmark.adapters.clouds.azure_dps.device import AzureDpsDevices
from birthmark.adapters.devicetls import FileIdentity, HeldIdentity, TokenIdentity
from birthmark.errors import BirthmarkError, DeviceFault, Refused, StationFault, Unavailable
from birthmark.model.device import DeviceState
from birthmark.model.events import Admitted, utc_text
from birthmark.model.secret import Secret
from birthmark.testing.dps import EmulatedDps, FaultPlan
from birthmark.wire.receipt import open_receipt
from birthmark.workflow.line.fence import DeadlineFence
from support.devicepki import issuing_key, pool_credential
from support.devicetoken import make_token, start_tokens
from support.dpsservice import dps_call, signer, verify_ca, x509_enrolment
from support.softhsm import MODULE, PIN
from support.stationworld import BORN, POOLED, Factory, Line, build_factory, events_of


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with build_factory(tmp_path / "factory").line() as opened:
        yield opened


@pytest.fixture
def dps() -> Iterator[EmulatedDps]:
    with EmulatedDps(mqtt_port=0, assigning_s=0.2) as running:
        yield running


def client(dps: EmulatedDps, tmp_path: Path, **more: Any) -> AzureDpsDevices:
    trust = tmp_path / "service.pem"
    trust.write_text(dps.root_pem)
    options = {"id_scope": dps.id_scope, "host": dps.host, "port": dps.https_port, "trust": str(trust)}
    return AzureDpsDevices(**{**options, **more})


def fence(seconds: float = 10.0) -> DeadlineFence:
    return DeadlineFence("t", seconds=seconds, monotonic=time.monotonic, lock=threading.Lock())


def files_of(factory: Factory, device_serial: str) -> FileIdentity:
    directory = factory.root / "out" / device_serial
    return FileIdentity(directory / "device.crt", directory / "device.key")


def group_of(line: Line, dps: EmulatedDps, **more: Any) -> None:
    issuing = x509.load_der_x509_certificate(line.chain_of("issuing")[0])
    verify_ca(dps, issuing, signer(issuing, line.factory.read_key("issuing")))
    assert (
        dps_call(dps, "PUT", "/enrollmentGroups/line", x509_enrolment("signingCertificates", issuing, **more))[0] == 200
    )


def test_the_receipt_says_where_the_device_was_let_in(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    group_of(line, dps)
    cloud = client(dps, tmp_path)
    for device_serial in (POOLED[0], BORN[0]):
        identity, limit = files_of(line.factory, device_serial), fence()
        outcome = line.provision(device_serial, fence=limit, admit=lambda held, i=identity, f=limit: cloud.admit(i, f))
        receipt = open_receipt(outcome.receipt, line.vkey())
        assert receipt.cloud.service == "azure-dps"
        assert (receipt.cloud.host, receipt.cloud.scope) == (dps.host, dps.id_scope)
        assert (receipt.cloud.assigned_to, receipt.cloud.device_name) == ("hub.azure-devices.net", device_serial)
        assert receipt.cloud.key == "device"
        assert "cloud" in [step.name for step in receipt.steps]
    assert dps_call(dps, "GET", f"/registrations/{POOLED[0]}")[1]["status"] == "assigned"
    again = line.provision(POOLED[0], admit=lambda held: cloud.admit(files_of(line.factory, POOLED[0]), fence()))
    assert again.outcome == "already"
    assert again.admitted.admission.device_name == POOLED[0]
    said = open_receipt(again.receipt, line.vkey())
    assert (said.attempt, said.cloud.device_name) == (again.attempt, POOLED[0])
    told = events_of(line.ledger, POOLED[0])[-1]
    assert isinstance(told, Admitted)
    assert (told.service, told.receipt_sha256) == ("azure-dps", sha256(again.receipt).hexdigest())


def test_only_a_verified_device_was_ever_admitted_on_record(line: Line) -> None:
    line.provision(POOLED[0])
    told = {"at": utc_text(line.clock()), "station": line.station, "service": "azure-dps", "receipt_sha256": "00" * 32}
    known = line.records.device(POOLED[0])
    for device_serial, attempt in ((POOLED[1], "a-0000001"), (POOLED[0], "a-0000001"), ("SN-NONE", known.attempt)):
        event = Admitted(device=device_serial, attempt=attempt, evidence="signature", **told)
        with pytest.raises(Refused), line.ledger.transaction() as tx:
            tx.append(event, b"receipt")


def test_the_station_may_knock_with_the_key_it_still_holds(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    group_of(line, dps)
    cloud = client(dps, tmp_path)

    def admit(held: Any) -> Any:
        return cloud.admit(HeldIdentity((held.certificate, *held.chain[:1]), held.private_key), fence())

    outcome = line.provision(POOLED[0], admit=admit)
    assert open_receipt(outcome.receipt, line.vkey()).cloud.key == "station"


def refused(cloud: AzureDpsDevices, identity: Any, seconds: float = 10.0) -> BirthmarkError:
    with pytest.raises(BirthmarkError) as caught:
        cloud.admit(identity, fence(seconds))
    return caught.value


@pytest.mark.parametrize(("serial", "state"), [(POOLED[0], DeviceState.DRAWN), (BORN[0], DeviceState.ISSUED)])
def test_who_is_not_let_in_does_not_pass_and_loses_nothing(
    line: Line, dps: EmulatedDps, tmp_path: Path, serial: str, state: DeviceState
) -> None:
    cloud = client(dps, tmp_path)

    def admit(held: Any) -> Any:
        return cloud.admit(files_of(line.factory, serial), fence())

    with pytest.raises(Refused) as unknown:
        line.provision(serial, admit=admit)
    assert (unknown.value.code, unknown.value.facts["answer"]) == ("cloud.admit.refused", "401002")
    before = line.records.device(serial)
    assert before.state is state
    [attempt] = line.journal.open_attempts()
    group_of(line, dps, provisioningStatus="disabled")
    with pytest.raises(Refused) as blocked:
        line.provision(serial, admit=admit)
    assert blocked.value.code == "cloud.admit.disabled"
    etag = dps_call(dps, "GET", "/enrollmentGroups/line")[1]["etag"]
    issuing = x509.load_der_x509_certificate(line.chain_of("issuing")[0])
    body = x509_enrolment("signingCertificates", issuing)
    assert dps_call(dps, "PUT", "/enrollmentGroups/line", body, If_Match=etag)[0] == 200
    outcome = line.provision(serial, admit=admit)
    assert (outcome.outcome, outcome.attempt) == ("pass", attempt.attempt)
    assert line.records.device(serial).issued_seq == before.issued_seq


def test_another_certificate_than_the_issued_one_ends_the_identity(
    line: Line, dps: EmulatedDps, tmp_path: Path
) -> None:
    group_of(line, dps)
    line.provision(POOLED[1])
    cloud = client(dps, tmp_path)
    with pytest.raises(DeviceFault) as caught:
        line.provision(POOLED[0], admit=lambda held: cloud.admit(files_of(line.factory, POOLED[1]), fence()))
    assert caught.value.code == "device.cloud.certificate"
    assert line.records.device(POOLED[0]).state is DeviceState.FAILED


def test_a_cloud_that_throttles_is_asked_again_when_it_says(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    group_of(line, dps)
    line.provision(POOLED[0])
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        dps.faults.set(FaultPlan())
        time.sleep(seconds)

    dps.faults.set(FaultPlan(throttled=1.0))
    cloud = client(dps, tmp_path, sleep=sleep)
    assert cloud.admit(files_of(line.factory, POOLED[0]), fence(30)).device_name == POOLED[0]
    assert sum(waited) >= 1
    dps.faults.set(FaultPlan(throttled=1.0))
    trouble = refused(client(dps, tmp_path), files_of(line.factory, POOLED[0]), 0.5)
    assert (type(trouble), trouble.code) == (Unavailable, "cloud.admit.throttled")


def test_a_lost_answer_is_asked_for_again(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    group_of(line, dps)
    line.provision(POOLED[0])
    dps.faults.set(FaultPlan(lost=1.0))

    def sleep(seconds: float) -> None:
        dps.faults.set(FaultPlan())
        time.sleep(seconds)

    cloud = client(dps, tmp_path, sleep=sleep)
    assert cloud.admit(files_of(line.factory, POOLED[0]), fence(30)).assigned_to == "hub.azure-devices.net"


def test_somebody_else_in_place_of_the_cloud_stops_the_line(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    line.provision(POOLED[0])
    with EmulatedDps(mqtt_port=0) as other:
        cloud = client(dps, tmp_path, port=other.https_port)
        trouble = refused(cloud, files_of(line.factory, POOLED[0]))
    assert (type(trouble), trouble.code) == (StationFault, "handshake.untrusted")


def test_a_cloud_that_hangs_holds_nobody_beyond_the_deadline(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    group_of(line, dps)
    cloud = client(dps, tmp_path)
    dps.faults.set(FaultPlan(latency_s=20.0))
    limit = fence(1.0)
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        line.provision(POOLED[0], fence=limit, admit=lambda held: cloud.admit(files_of(line.factory, POOLED[0]), limit))
    assert time.monotonic() - began < 2.0
    assert caught.value.code == "cloud.admit.unreachable"
    assert line.records.device(POOLED[0]).state is DeviceState.DRAWN
    dps.faults.set(FaultPlan())
    again = line.provision(POOLED[0], admit=lambda held: cloud.admit(files_of(line.factory, POOLED[0]), fence()))
    assert again.outcome == "pass"


def test_a_cloud_that_is_not_there_is_named(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    line.provision(POOLED[0])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    trouble = refused(client(dps, tmp_path, port=port, sleep=lambda s: None), files_of(line.factory, POOLED[0]))
    assert (type(trouble), trouble.code) == (Unavailable, "cloud.admit.unreachable")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_trust_that_cannot_be_read_is_a_mistake_in_the_settings(
    line: Line, dps: EmulatedDps, tmp_path: Path, content: bytes | None
) -> None:
    line.provision(POOLED[0])
    if content is not None:
        (tmp_path / "trust").write_bytes(content)
    own = files_of(line.factory, POOLED[0])
    token = TokenIdentity(MODULE, "none", "key", Secret(b"1"), tuple(own.certificates()))
    for identity in (own, token):
        assert refused(client(dps, tmp_path, trust=str(tmp_path / "trust")), identity).code == "handshake.trust"


def answering(dps: EmulatedDps, directory: Path, answer: Iterable[bytes]) -> socket.socket:
    """Serve TLS in the name of the service and say to each device whatever ``answer`` yields."""
    own = dps._identity
    pem = own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    place = directory / "evil.pem"
    with os.fdopen(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(pem + own.certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                raw, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(raw, server_side=True) as stream:
                    stream.recv(4096)
                    for part in answer:
                        stream.sendall(part)

    threading.Thread(target=serve, daemon=True).start()
    return listener


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


HOSTILE = {
    "no http": [b"\x00\x01\x02" * 1000],
    "endless head": [b"HTTP/1.1 200 OK\r\n", *[b"x: " + b"y" * 9000 + b"\r\n"] * 99],
    "endless body": [b"HTTP/1.1 200 OK\r\n\r\n", *[b"z" * 16_000] * 20],
    "no json": [http(b"<html>")],
    "a list": [http(b"[1]")],
    "deep json": [http(b'{"a":' * 20_000)],
    "no state": [http(b'{"status":"assigned"}')],
    "a hub that moves the cursor": [
        http(b'{"status":"assigned","registrationState":{"assignedHub":"h\\u001b[2J","deviceId":"d"}}')
    ],
    "an endless name": [http(b'{"status":"assigned","registrationState":{"assignedHub":"' + b"h" * 999 + b'"}}')],
    "odd state": [http(b'{"status":"perhaps"}')],
    "an operation that climbs": [http(b'{"status":"assigning","operationId":"\\n\\r"}')],
    "an error of its own": [http(b'{"errorCode":"x","message":"\\u001b[2J"}', "500 \x1b")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_hostile_server_says_is_bounded_and_never_believed(
    line: Line, dps: EmulatedDps, tmp_path: Path, name: str
) -> None:
    line.provision(POOLED[0])
    with answering(dps, tmp_path, HOSTILE[name]) as server:
        cloud = client(dps, tmp_path, port=server.getsockname()[1], sleep=lambda seconds: None)
        trouble = refused(cloud, files_of(line.factory, POOLED[0]), 3.0)
    assert isinstance(trouble, Unavailable)
    assert trouble.code in ("cloud.admit.answer", "cloud.admit.unreachable")
    assert trouble.message.isprintable()


def test_an_answer_that_drips_ends_with_the_time(line: Line, dps: EmulatedDps, tmp_path: Path) -> None:
    line.provision(POOLED[0])

    def drip() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        while True:
            time.sleep(0.05)
            yield b"x"

    with answering(dps, tmp_path, drip()) as server:
        began = time.monotonic()
        cloud = client(dps, tmp_path, port=server.getsockname()[1])
        assert refused(cloud, files_of(line.factory, POOLED[0]), 1.0).code == "cloud.admit.unreachable"
    assert time.monotonic() - began < 2.0


def test_a_key_inside_a_token_registers_itself(
    dps: EmulatedDps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_tokens(tmp_path, monkeypatch)
    make_token("SN 7")
    used = pool_credential("SN-7")
    assert used.private_key is not None
    key = load_der_private_key(used.private_key.reveal(), None)
    place = tmp_path / "key.pem"
    with os.fdopen(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    command = ["softhsm2-util", "--import", place, "--token", "SN 7", "--label", "key", "--id", "01", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    token = TokenIdentity(MODULE, "SN 7", "key", Secret(PIN.encode()), (used.certificate, *used.chain[:1]))
    assert refused(client(dps, tmp_path), token).facts["answer"] == "401002"
    issuing = x509.load_der_x509_certificate(used.chain[0])
    verify_ca(dps, issuing, signer(issuing, issuing_key()))
    assert dps_call(dps, "PUT", "/enrollmentGroups/line", x509_enrolment("signingCertificates", issuing))[0] == 200
    admitted = client(dps, tmp_path).admit(token, fence())
    assert (admitted.device_name, admitted.assigned_to) == ("SN-7", "hub.azure-devices.net")
    with EmulatedDps(mqtt_port=0) as other:
        assert refused(client(dps, tmp_path, port=other.https_port), token).code == "handshake.untrusted"
    dps.faults.set(FaultPlan(latency_s=20.0))
    began = time.monotonic()
    assert refused(client(dps, tmp_path), token, 1.0).code == "cloud.admit.unreachable"
    assert time.monotonic() - began < 5.0
