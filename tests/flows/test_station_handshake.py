"""The mutual-TLS proof: the server says who came, and lets nobody in but devices of its one issuing CA."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.adapters.devicetls import FileIdentity, TokenIdentity
from birthmark.adapters.handshake import TlsVerifier
from birthmark.errors import DeviceFault, Misconfigured
from birthmark.model.secret import Secret
from birthmark.wire.receipt import open_receipt
from support.devicepki import credential_for, pool_credential
from support.stationworld import BORN, POOLED, Factory, Line, build_factory

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with build_factory(tmp_path / "factory").line() as opened:
        yield opened


@pytest.fixture
def verifier(line: Line) -> Iterator[TlsVerifier]:
    with TlsVerifier(line.chain_of("issuing")[:1]) as opened:
        yield opened


def files_of(factory: Factory, device_serial: str) -> FileIdentity:
    directory = factory.root / "out" / device_serial
    return FileIdentity(directory / "device.crt", directory / "device.key")


@pytest.mark.parametrize("device_serial", [POOLED[0], BORN[0]], ids=["pool", "born"])
def test_handshake_stands_in_the_receipt(line: Line, verifier: TlsVerifier, device_serial: str) -> None:
    outcome = line.provision(device_serial, handshake=lambda: verifier.connect(files_of(line.factory, device_serial)))
    receipt = open_receipt(outcome.receipt, line.vkey())
    assert receipt.handshake is not None
    assert receipt.handshake.peer_cert_sha256 == outcome.cert_sha256
    assert receipt.handshake.tls_version == "TLSv1.3"


def test_eight_devices_connect_at_once(line: Line, verifier: TlsVerifier) -> None:
    devices = (*POOLED, *BORN)
    outcomes = [line.provision(device_serial) for device_serial in devices]
    with ThreadPoolExecutor(8) as heads:
        seen = list(heads.map(lambda d: verifier.connect(files_of(line.factory, d)), devices))
    assert [one.peer_cert_sha256 for one in seen] == [one.cert_sha256 for one in outcomes]


def test_device_of_another_factory_is_not_let_in(line: Line, verifier: TlsVerifier, tmp_path: Path) -> None:
    with build_factory(tmp_path / "other").line() as other:
        other.provision(POOLED[0])
        with pytest.raises(DeviceFault) as caught:
            verifier.connect(files_of(other.factory, POOLED[0]))
        assert caught.value.code == "handshake.refused"


def test_certificate_with_another_key_is_not_let_in(line: Line, verifier: TlsVerifier) -> None:
    for device_serial in POOLED[:2]:
        line.provision(device_serial)
    mixed = FileIdentity(files_of(line.factory, POOLED[0]).certificate, files_of(line.factory, POOLED[1]).private_key)
    with pytest.raises(DeviceFault) as caught:
        verifier.connect(mixed)
    assert caught.value.code == "handshake.credential"


def test_missing_files_are_named(verifier: TlsVerifier, tmp_path: Path) -> None:
    with pytest.raises(DeviceFault) as caught:
        verifier.connect(FileIdentity(tmp_path / "no.crt", tmp_path / "no.key"))
    assert caught.value.code == "handshake.credential"


def test_server_without_a_ca_is_a_mistake() -> None:
    for trusted in ([], [b"garbage"]):
        with pytest.raises(Misconfigured) as caught:
            TlsVerifier(trusted)
        assert caught.value.code == "handshake.trust"


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SoftHSM2 token with one EC and one Edwards key on it: the mix that crashes OpenSSL's engine."""
    directory = tmp_path / "tokens"
    directory.mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(
        f"directories.tokendir = {directory}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    tool = shutil.which("softhsm2-util")
    assert tool is not None, "install softhsm2"
    run(tool, "--init-token", "--free", "--label", "SN 7", "--so-pin", "12345678", "--pin", "1234")
    return tool


def keep(token: str, key: Path, label: str, number: str) -> None:
    run(token, "--import", str(key), "--token", "SN 7", "--label", label, "--id", number, "--pin", "1234")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("algorithm", ["p256", "ed25519"])
def test_key_inside_a_token_makes_the_connection(
    token: str, tmp_path: Path, algorithm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    credentials = {name: pool_credential("SN-7", name) for name in ("p256", "ed25519")}
    for number, (name, credential) in enumerate(credentials.items()):
        key = tmp_path / f"{name}.pem"
        key.write_bytes(to_pem(credential.private_key))
        run(
            token,
            "--import",
            str(key),
            "--token",
            "SN 7",
            "--label",
            f"key {name}",
            "--id",
            f"0{number}",
            "--pin",
            "1234",
        )
    used = credentials[algorithm]
    identity = TokenIdentity(MODULE, "SN 7", f"key {algorithm}", Secret(b"1234"), (used.certificate, *used.chain[:1]))
    with TlsVerifier(used.chain[:1]) as verifier:
        seen = verifier.connect(identity)
    assert seen.peer_cert_sha256 == sha256(used.certificate).hexdigest()


def test_wrong_pin_is_tried_once_and_named(token: str, tmp_path: Path) -> None:
    used = pool_credential("SN-7")
    key = tmp_path / "key.pem"
    key.write_bytes(to_pem(used.private_key))
    keep(token, key, "key", "01")
    with TlsVerifier(used.chain[:1]) as verifier, pytest.raises(Misconfigured) as caught:
        verifier.connect(TokenIdentity(MODULE, "SN 7", "key", Secret(b"9999"), (used.certificate,)))
    assert caught.value.code == "handshake.pin"


def test_token_that_holds_another_key_is_not_let_in(token: str, tmp_path: Path) -> None:
    used, other = pool_credential("SN-7"), credential_for(ed25519.Ed25519PrivateKey.generate().public_key(), "SN-7")
    key = tmp_path / "key.pem"
    key.write_bytes(to_pem(used.private_key))
    keep(token, key, "key", "01")
    with TlsVerifier(used.chain[:1]) as verifier, pytest.raises(DeviceFault) as caught:
        verifier.connect(TokenIdentity(MODULE, "SN 7", "key", Secret(b"1234"), (other.certificate,)))
    assert caught.value.code == "handshake.refused"


def to_pem(secret: Secret | None) -> bytes:
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    assert secret is not None
    key = load_der_private_key(secret.reveal(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_verifier_leaves_no_key_behind(line: Line) -> None:
    with TlsVerifier(line.chain_of("issuing")[:1]) as verifier:
        directory = verifier._server_pem.parent
        assert oct(os.stat(verifier._server_pem).st_mode & 0o777) == "0o600"
    assert not directory.exists()
