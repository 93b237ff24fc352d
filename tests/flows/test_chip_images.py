"""Twenty ESP chips and twenty Matter devices over the line, each image read by its maker's own tool."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from birthmark.shell.authority.ceremony import hold_ceremony
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.setup import SetupRequest, create_workspace
from birthmark.shell.workspace.wiring import open_workspace
from support.targets.matter import PRODUCT
from support.vendortools import run_tool, tool

DEVICES = [f"TH-{number:04d}" for number in range(1, 21)]


def made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an order of 20 injected keys in the workspace, and a directory for each device."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    order = ["order", "create", "lot1", "--quantity", "20", "--first", "TH-0001", "--product", "device", "--json"]
    assert main(order) == 0
    assert main(["order", "make", "lot1", "--processes", "1", "--json"]) == 0
    for name in DEVICES:
        (place / "out" / name).mkdir(parents=True)
    (place / "serials.txt").write_text("\n".join(DEVICES) + "\n")


def make_matter_workspace(root: Path) -> None:
    """A workspace whose root is a PAA and whose issuing CA is a PAI."""
    (root / "secrets").mkdir(parents=True, mode=0o700)
    passphrase = root / "secrets" / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text("open sesame open sesame")
    request = SetupRequest(
        name="fab",
        origin="fab.example/birthmark",
        maker="Example Lamps",
        product="device",
        preset="matter-dac",
        key_algorithm="p256",
        secret=f"file:{passphrase}",
        values={"vid": "FFF1", "pid": "8000"},
    )
    create_workspace(root, request, secrets=SecretsResolver())
    ceremony = (root / "ceremony.toml").read_text()
    for name, preset in (("root-ca", "matter-paa"), ("issuing-ca", "matter-pai")):
        text = files("birthmark.pki.presets").joinpath(f"{preset}.toml").read_text()
        (root / "profiles" / f"{preset}.toml").write_text(text)
        ceremony = ceremony.replace(f'profile = "{name}"', f'profile = "{preset}"')
    with open_workspace(root) as workspace:
        hold_ceremony(workspace, ceremony.encode())


def run_line(capsys: pytest.CaptureFixture[str], target: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["station", "run", "--heads", "4", "--devices", "serials.txt", "--target", target, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_twenty_chips_get_twenty_partitions_that_espressifs_tool_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_workspace(tmp_path / "fab")
    made(tmp_path, monkeypatch)
    base = b"\xe9" * 0xD000 + b"\xff" * 0x2000 + b"\xe9" * 0x10000
    for name in DEVICES:
        (tmp_path / "out" / name / "flash.bin").write_bytes(base)
    lines = run_line(capsys, "esp:out/{device_serial}?layout=secure-cert&flash=flash.bin")
    assert (lines[-1]["passed"], lines[-1]["codes"]) == (20, {})
    script = """
import os, sys
from esp_secure_cert.tlv_format_construct import EspSecureCert
for directory in sys.argv[1:]:
    os.chdir(directory)
    with open("flash.bin", "rb") as flash, open("slice.bin", "wb") as part:
        flash.seek(0xD000)
        part.write(flash.read(0x2000))
    EspSecureCert.parse_esp_secure_cert_bin("slice.bin")
"""
    run_tool("esp", "python", "-c", script, *(tmp_path / "out" / name for name in DEVICES))
    keys = set()
    for name in DEVICES:
        image = (tmp_path / "out" / name / "flash.bin").read_bytes()
        assert (image[:0xD000], image[0xF000:]) == (base[:0xD000], base[0xF000:])
        parsed = tmp_path / "out" / name / "esp_secure_cert_parsed_data" / "contents"
        key = load_pem_private_key((parsed / "privkey_2_0.pem").read_bytes(), None)
        device = x509.load_pem_x509_certificate((parsed / "devcert_1_0.pem").read_bytes())
        assert device.public_key() == key.public_key()
        assert name in device.subject.rfc4514_string()
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        keys.add(key.private_numbers().private_value)
        verify = ["openssl", "verify", "-CAfile", "cacert_0_1.pem", "-untrusted", "cacert_0_0.pem", "devcert_1_0.pem"]
        subprocess.run(verify, cwd=parsed, capture_output=True, check=True)
    assert len(keys) == 20
    again = run_line(capsys, "esp:out/{device_serial}?layout=secure-cert&flash=flash.bin")
    assert (again[-1]["passed"], again[-1]["already"]) == (0, 20)


def test_twenty_matter_devices_get_twenty_attestation_keys_and_passcodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_matter_workspace(tmp_path / "fab")
    made(tmp_path, monkeypatch)
    (tmp_path / "lamp.toml").write_text(PRODUCT)
    lines = run_line(capsys, "matter:out/{device_serial}?product=lamp.toml")
    assert (lines[-1]["passed"], lines[-1]["codes"]) == (20, {})
    script = """
import json, sys
from spake2p import generate_verifier
import base64
for directory in sys.argv[1:]:
    numbers = json.load(open(f"{directory}/onboarding.json"))
    salt = base64.b64decode(numbers["salt"])
    print(base64.b64encode(generate_verifier(numbers["passcode"], salt, numbers["iterations"])).decode())
"""
    packages = tool("matter").parent.parent / "lib" / "python3.11" / "site-packages" / "deps"
    done = subprocess.run(
        [tool("matter"), "-c", script, *(tmp_path / "out" / name for name in DEVICES)],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=True,
    )
    certificates, passcodes = set(), set()
    for name, verifier in zip(DEVICES, done.stdout.split(), strict=True):
        partition = (tmp_path / "out" / name / "chip_factory.bin").read_bytes()
        # Within one entry's data nothing stands in between: the text is there as it was written.
        assert verifier.encode() in partition
        passcodes.add(json.loads((tmp_path / "out" / name / "onboarding.json").read_text())["passcode"])
        start = partition.index(b"dac-cert") - 8 + 32
        length = int.from_bytes(partition[start - 8 : start - 6], "little")
        dac = x509.load_der_x509_certificate(partition[start : start + length])
        assert name in dac.subject.rfc4514_string()
        certificates.add(dac)
    assert len(certificates) == len(passcodes) == 20
    canary = json.loads((tmp_path / "out" / DEVICES[0] / "onboarding.json").read_text())["passcode"]
    assert not any(str(canary) in json.dumps(line) for line in lines)
    journals = (tmp_path / "fab").rglob("*.jsonl")
    assert not any(str(canary) in path.read_text() for path in journals)
