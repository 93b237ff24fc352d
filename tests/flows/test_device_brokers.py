"""Devices of the line at a broker that is not ours: a real Mosquitto with our issuing CA and its revocation list."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.testing.aws import EmulatedAws
from support.awsworld import JITP_TEMPLATE, ROLE, certificate, client, device_files, pem
from support.mosquitto import Broker, broker
from support.pahodevice import connected, said_back
from support.vendortools import run_tool

CLIENT = Path(__file__).resolve().parents[1] / "support" / "awsdevices.py"
ALPN = "x-amzn-mqtt-ca"
OPEN = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}})
GOOD, SCRAPPED = "TH-0001", "TH-0002"


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line that made two devices, of which one was scrapped; their CA has told so in its list."""
    place = tmp_path_factory.mktemp("line")
    make_workspace(place / "fab", preset="aws-iot")
    options = ["-C", str(place / "fab"), "--json"]
    order = ["--product", "device", "--quantity", "2", "--first", GOOD, "--key-origin", "device"]
    assert main(["order", "create", "lot", *order, *options]) == 0
    for name in (GOOD, SCRAPPED):
        (place / name).mkdir()
        told = ["--device-serial", name, "--target", f"files:{place / name}?key=born"]
        assert main(["station", "provision", *told, *options]) == 0
    assert main(["device", "scrap", SCRAPPED, "--reason", "dropped", *options]) == 0
    assert main(["ca", "crl", "issuing", *options]) == 0
    listed = ["openssl", "crl", "-inform", "DER", "-in", str(place / "fab" / "ca" / "issuing.crl")]
    subprocess.run([*listed, "-out", str(place / "crl.pem")], check=True)
    return place


@pytest.fixture
def devices(factory: Path, tmp_path: Path) -> dict[str, Path]:
    """Directories with ``device.crt`` and ``device.key``: of the line, of the line but scrapped, of a foreign CA."""
    stranger_key = ec.generate_private_key(ec.SECP256R1())
    issuing = issuing_ca(factory)
    foreign = device_files(tmp_path / "TH-0009", *certificate("TH-0009", issuing, stranger_key))
    return {"good": factory / GOOD, "scrapped": factory / SCRAPPED, "foreign": foreign}


def issuing_ca(factory: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((factory / "fab" / "ca" / "issuing.pem").read_bytes())


@pytest.fixture
def mosquitto(factory: Path, tmp_path: Path) -> Iterator[Broker]:
    cas = [
        x509.load_pem_x509_certificate((factory / "fab" / "ca" / f"{name}.pem").read_bytes()).public_bytes(Encoding.DER)
        for name in ("issuing", "root")
    ]
    with broker(tmp_path / "broker", cas, crl=(factory / "crl.pem").read_bytes()) as running:
        yield running


@pytest.mark.parametrize("alpn", [None, ALPN])
def test_mosquitto_lets_in_the_device_and_neither_a_scrapped_nor_a_foreign_one(
    devices: dict[str, Path], mosquitto: Broker, alpn: str | None
) -> None:
    root, port = mosquitto.trust.read_text(), mosquitto.port
    made = connected(devices["good"], GOOD, root, "localhost", port, alpn=alpn)
    assert made is not None
    assert said_back(made, f"things/{GOOD}/echo", b"hello") == b"hello"
    assert said_back(made, f"things/{SCRAPPED}/echo", b"hello") is None  # a user has its own topics alone
    assert connected(devices["scrapped"], SCRAPPED, root, "localhost", port, alpn=alpn) is None
    assert connected(devices["foreign"], "TH-0009", root, "localhost", port, alpn=alpn) is None


def sdk(root: Path, port: int, alpn: str, devices: dict[str, Path]) -> dict[str, dict[str, Any]]:
    named = {GOOD: devices["good"], SCRAPPED: devices["scrapped"], "TH-0009": devices["foreign"]}
    each = [f"{name}={place / 'device.crt'}={place / 'device.key'}" for name, place in named.items()]
    printed = run_tool("aws", "python", CLIENT, "crt", "echo", root, "localhost", str(port), alpn, *each)
    return {one["name"]: one for one in map(json.loads, printed.splitlines())}


@pytest.mark.parametrize("alpn", ["-", ALPN])
def test_amazons_client_is_told_the_same_by_mosquitto(devices: dict[str, Path], mosquitto: Broker, alpn: str) -> None:
    seen = sdk(mosquitto.trust, mosquitto.port, alpn, devices)
    assert seen[GOOD]["heard"] == f"hello {GOOD}"
    assert all("error" in seen[name] for name in (SCRAPPED, "TH-0009"))


def test_the_same_devices_are_met_and_let_in_by_the_emulated_aws(
    factory: Path, devices: dict[str, Path], tmp_path: Path
) -> None:
    """Just-in-time provisioning of a device of the line; who was scrapped before is blocked before."""
    with EmulatedAws() as aws:
        iot, root = client(aws), tmp_path / "aws-root.pem"
        root.write_text(aws.root_pem)
        iot.create_policy(policyName="devices", policyDocument=OPEN)
        iot.register_ca_certificate(
            caCertificate=pem(issuing_ca(factory)),
            certificateMode="SNI_ONLY",
            setAsActive=True,
            allowAutoRegistration=True,
            registrationConfig={"templateBody": JITP_TEMPLATE, "roleArn": ROLE},
        )
        scrapped = x509.load_pem_x509_certificates((devices["scrapped"] / "device.crt").read_bytes())[0]
        iot.register_certificate(certificatePem=pem(scrapped), status="REVOKED")
        first = sdk(root, aws.mqtt_port, "-", devices)
        assert all("error" in one for one in first.values())
        again = sdk(root, aws.mqtt_port, "-", devices)
        assert [name for name, one in again.items() if "heard" in one] == [GOOD]
        assert [one["thingName"] for one in iot.list_things()["things"]] == [GOOD]
