"""TLS as a device whose key is in a TPM: the server sees it come, and nothing else than a signature leaves the TPM."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.adapters.clouds.aws_iot.device import AwsIotDevices
from birthmark.adapters.handshake import TlsVerifier
from birthmark.adapters.targets.tpm2.tls import TpmIdentity
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, StationFault, Unavailable
from birthmark.ports.admission import TlsServer
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.testing.dps import EmulatedDps
from birthmark.workflow.line.fence import DeadlineFence
from support.devicepki import credential_for, issuing_key
from support.dpsservice import dps_call, signer, verify_ca, x509_enrolment
from support.fences import OPEN
from support.mosquitto import HOST, broker
from support.mqttgate import gate
from support.swtpm import Swtpm, board_state, start_tpm
from support.targets.tpm2 import tpm_holds, tpm_target
from support.tpmproxy import TpmProxy

SERIAL = "GW-0001"
SIGN = 0x15D


@pytest.fixture
def tpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swtpm:
    return start_tpm(tmp_path / "tpm", monkeypatch, board_state(SERIAL))


def made(tpm: Swtpm, algorithm: str = "p256", *, through: str = "") -> TpmIdentity:
    """Make a key in the TPM, install its certificate, and return the identity of the device."""
    target = tpm_target(through or tpm.tcti)
    request = x509.load_der_x509_csr(target.make_key(algorithm, SERIAL, OPEN))
    credential = credential_for(request.public_key(), SERIAL)
    target.install(credential, OPEN)
    return target.tls((credential.certificate, *credential.chain[:1]))


def failure(identity: TpmIdentity) -> BirthmarkError:
    with TlsVerifier(identity.chain[1:]) as verifier, pytest.raises(BirthmarkError) as caught:
        verifier.connect(identity)
    return caught.value


def answers(code: int, after: int = 0) -> Callable[[bytes, Callable[[bytes], bytes]], bytes]:
    """Return what answers all requests for a signature with a response code, from one on."""
    seen = 0

    def lie(command: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        nonlocal seen
        if int.from_bytes(command[6:10], "big") != SIGN:
            return ask(command)
        seen += 1
        return ask(command) if seen <= after else bytes.fromhex("80010000000a") + code.to_bytes(4, "big")

    return lie


@pytest.mark.parametrize(
    ("algorithm", "server_most", "version"),
    [
        ("p256", "TLSv1_3", "TLSv1.3"),
        ("p256", "TLSv1_2", "TLSv1.2"),
        ("p384", "TLSv1_3", "TLSv1.3"),
        ("rsa2048", "TLSv1_3", "TLSv1.2"),
    ],
)
def test_a_key_inside_a_tpm_makes_the_connection(tpm: Swtpm, algorithm: str, server_most: str, version: str) -> None:
    identity = made(tpm, algorithm)
    before = tpm_holds(tpm.tcti)
    with TlsVerifier(identity.chain[1:]) as verifier:
        verifier._context.maximum_version = ssl.TLSVersion[server_most]
        seen = verifier.connect(identity)
    assert seen.peer_cert_sha256 == sha256(identity.chain[0]).hexdigest()
    assert (seen.tls_version, identity.held_by) == (version, "device")
    assert tpm_holds(tpm.tcti) == before


def test_another_key_than_the_certified_one_is_not_shown(tpm: Swtpm) -> None:
    identity = made(tpm)
    other = credential_for(ec.generate_private_key(ec.SECP256R1()).public_key(), SERIAL)
    wrong = TpmIdentity(identity.name, identity.address, identity.handle, (other.certificate, *other.chain[:1]))
    nothing = TpmIdentity(identity.name, identity.address, identity.handle + 1, identity.chain)
    for one in (wrong, nothing):
        trouble = failure(one)
        assert (type(trouble), trouble.code) == (DeviceFault, "handshake.credential")


def test_a_key_of_another_issuing_ca_is_refused_by_the_server(tpm: Swtpm) -> None:
    identity = made(tpm)
    stranger = credential_for(ec.generate_private_key(ec.SECP256R1()).public_key(), "other").certificate
    with TlsVerifier([stranger]) as verifier, pytest.raises(DeviceFault) as caught:
        verifier.connect(identity)
    assert caught.value.code == "handshake.refused"


@pytest.mark.parametrize(
    ("response", "family", "code"),
    [
        (0x922, Unavailable, "target.tpm.busy"),
        (0x921, DeviceFault, "target.tpm.lockout"),
        (0x98E, DeviceFault, "target.tpm.owned"),
        (0x101, DeviceFault, "target.tpm.failed"),
    ],
    ids=["retry", "lockout", "auth", "failure"],
)
def test_what_a_tpm_refuses_has_its_name(tpm: Swtpm, response: int, family: type[BirthmarkError], code: str) -> None:
    proxy = TpmProxy(tpm.port)
    identity = made(tpm, through=proxy.tcti)
    proxy.lie = answers(response)
    trouble = failure(identity)
    assert (type(trouble), trouble.code) == (family, code)


def test_a_signature_by_another_key_opens_no_door(tpm: Swtpm) -> None:
    from support.tpmproxy import LIES

    proxy = TpmProxy(tpm.port)
    identity = made(tpm, through=proxy.tcti)
    proxy.lie = LIES["other key"](0)
    assert failure(identity).code == "handshake.refused"


@contextmanager
def silent_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_tpm_that_hangs_holds_nobody_beyond_the_time(tpm: Swtpm) -> None:
    identity = made(tpm)
    with TlsVerifier(identity.chain[1:]) as verifier, verifier._listening() as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as raw:
                verifier._context.wrap_socket(raw, server_side=True)

        threading.Thread(target=serve, daemon=True).start()
        stream = identity.connect(TlsServer("127.0.0.1", port, "verifier.birthmark.invalid", str(verifier._ca_file)), 5)
        tpm.freeze()
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            stream.receive(16, 0.5)
        stream.close()
        assert time.monotonic() - began < 2.5
    assert caught.value.code == "target.tpm.silent"


def test_a_client_that_hangs_is_ended_with_the_stream(tpm: Swtpm) -> None:
    identity = made(tpm)
    with silent_server() as port:
        stream: Any = identity.connect(TlsServer("127.0.0.1", port, "nobody", ""), 5)
        os.kill(stream._process.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            stream.receive(16, 0.3)
        stream.send(b"x" * 4096, 0.3)
        stream.close()
        stream.close()
        assert time.monotonic() - began < 2.5
        assert stream._process.returncode == -signal.SIGKILL


def test_somebody_else_in_place_of_the_server_gets_no_signature(tpm: Swtpm, tmp_path: Path) -> None:
    proxy = TpmProxy(tpm.port)
    identity = made(tpm, through=proxy.tcti)
    asked: list[bytes] = []
    proxy.lie = lambda command, ask: (asked.append(command), ask(command))[1]
    with TlsVerifier(identity.chain[1:]) as verifier, TlsVerifier(identity.chain[1:]) as other:
        verifier._ca_file.write_bytes(other._ca_file.read_bytes())
        with pytest.raises(StationFault) as caught:
            verifier.connect(identity)
    assert (caught.value.code, asked) == ("handshake.untrusted", [])
    with pytest.raises(Misconfigured) as unreadable:
        identity.connect(TlsServer("127.0.0.1", 9, "nobody", str(tmp_path / "none.pem")), 1)
    assert unreadable.value.code == "handshake.trust"


def test_a_missing_client_is_named_with_its_package(tpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = made(tpm)
    monkeypatch.setattr("birthmark.adapters.targets.tpm2.tls.MODULE", "no-such-module.so")
    trouble = failure(identity)
    assert (trouble.code, "p11-kit-modules" in (trouble.hint or "")) == ("handshake.tool", True)
    monkeypatch.setenv("PATH", "/nonexistent")
    trouble = failure(identity)
    assert (trouble.code, "gnutls-bin" in (trouble.hint or "")) == ("handshake.tool", True)


def test_a_broker_lets_a_tpm_in_by_its_names(tpm: Swtpm, tmp_path: Path) -> None:
    identity = made(tpm)
    fence = DeadlineFence("t", seconds=10.0, monotonic=time.monotonic, lock=threading.Lock())
    with (
        broker(tmp_path / "b", credential_for(issuing_key().public_key(), SERIAL).chain) as running,
        gate(running.port) as before,
    ):

        class Elsewhere(TpmIdentity):
            """Connects to another port than the one that is named: nobody but root may listen at 443."""

            def connect(self, server: TlsServer, seconds: float) -> Any:
                there = TlsServer(server.host, before.port, server.name, server.trust, server.alpn)
                return super().connect(there, seconds)

        moved = Elsewhere(identity.name, identity.address, identity.handle, identity.chain)
        for port in (8883, 443):
            cloud = AwsIotDevices(host=HOST, port=port, trust=str(running.trust), topic="things/{name}/up")
            admitted = cloud.admit(moved, fence)
            assert (admitted.service, admitted.device_name, admitted.held_by) == ("aws-iot", SERIAL, "device")
        assert before.hellos == [(HOST, ()), (HOST, ("x-amzn-mqtt-ca",))]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_workspace(tmp_path / "fab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    options = ["--product", "device", "--quantity", "1", "--first", SERIAL, "--key-origin", "device"]
    assert main(["order", "create", "gateways", *options, "--json"]) == 0
    return tmp_path


def test_a_gateway_is_provisioned_and_let_into_its_cloud(
    place: Path, tpm: Swtpm, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused first by a busy TPM, then by a cloud that does not know its CA: nothing is lost, and it passes."""
    proxy = TpmProxy(tpm.port)

    def station(command: str, *more: str) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        where = ["--device-serial", SERIAL, "--target", f"tpm2:0x81010100?tcti={proxy.tcti}"]
        code = main(["station", command, *where, "--handshake", *more, "--json"])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    with EmulatedDps(mqtt_port=0, assigning_s=0) as dps:
        (place / "fab" / "root.pem").write_text(dps.root_pem)
        address = f"{dps.host}:{dps.https_port}"
        uri = f"azure-dps:{address}?key=env:NOBODY&trust=root.pem&scope={dps.id_scope}&device-host={address}"
        with (place / "fab" / "birthmark.toml").open("a") as settings:
            settings.write(f'\n[clouds.azure]\nuri = "{uri}"\n')
        proxy.lie = answers(0x922, after=2)  # the request and the proof are signed
        code, lines = station("provision", "--cloud", "azure")
        assert (code, lines[-1]["error"]) == (6, "target.tpm.busy")
        proxy.lie = None
        code, lines = station("provision", "--cloud", "azure")
        assert lines[-1]["error"] == "cloud.admit.refused"
        with open_workspace(place / "fab") as workspace:
            ca = workspace.product("device").ca
            issuing = x509.load_der_x509_certificate(workspace.chain(ca)[0])
            verify_ca(dps, issuing, signer(issuing, workspace.private_key(workspace.ca_key_uri(ca))))
        group = x509_enrolment("signingCertificates", issuing)
        assert dps_call(dps, "PUT", "/enrollmentGroups/line", group)[0] == 200
        code, lines = station("provision", "--cloud", "azure")
        assert (code, lines[-1]["status"]) == (0, "pass")
        assert lines[-1]["cloud"]["key"] == "device"
        code, lines = station("verify", "--cloud", "azure")
        assert (code, lines[-1]["status"]) == (0, "already")
    assert {"handshake", "cloud"} <= {one["step"] for one in lines}
    assert main(["audit", "verify", "fab", "--json"]) == 0
