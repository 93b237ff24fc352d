"""Two hundred devices of a line, and Microsoft's own client in each of them: who is let in, and who is not."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.adapters.clouds.azure_dps.device import AzureDpsDevices
from birthmark.adapters.devicetls import FileIdentity
from birthmark.errors import Refused
from birthmark.model.events import Admitted, Verified, decode_entry, utc_text
from birthmark.shell.cli.main import main
from birthmark.shell.line.heads import open_heads
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.testing.dps import EmulatedDps
from support.dpsservice import dps_call, signer, verify_ca, x509_enrolment
from support.fences import OPEN
from support.mosquitto import HOST, broker
from support.mqttgate import Gate, gate
from support.vendortools import run_tool

CLIENT = Path(__file__).resolve().parents[1] / "support" / "azuredevices.py"
DEVICES = 200
SERIALS = [f"TH-{number:04d}" for number in range(1, DEVICES + 1)]
LAST = f"TH-{DEVICES + 1:04d}"
"""Ordered, and not yet made when the others are."""
BY_GROUP, ALONE = SERIALS[: DEVICES // 2], SERIALS[DEVICES // 2 :]
BLOCKED, DISABLED = ALONE[0], ALONE[1]
HUB = "hub.azure-devices.net"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose line has made all devices; their files are what the devices hold."""
    place = tmp_path_factory.mktemp("line")
    make_workspace(place / "fab")
    here = ["-C", str(place / "fab"), "--json"]
    ordered = ["order", "create", "lot1", "--product", "device", "--quantity", str(DEVICES + 1), "--first", SERIALS[0]]
    assert main([*ordered, *here]) == 0
    assert main(["order", "make", "lot1", "--processes", "1", *here]) == 0
    for serial in SERIALS:
        (place / "out" / serial).mkdir(parents=True)
    with open_workspace(place / "fab") as workspace, open_heads(workspace) as heads:
        done = heads.run(SERIALS, f"files:{place}/out/{{device_serial}}", heads=4)
    assert (done.passed, done.codes) == (DEVICES, {})
    return place


@pytest.fixture(scope="module")
def dps() -> Iterator[EmulatedDps]:
    host = f"127.16.{os.getpid() % 200 + 20}.7"  # the client's port is fixed: parallel tests take an address each
    with EmulatedDps(host=host, assigning_s=0) as running:
        yield running


def pem(place: Path, serial: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates((place / "out" / serial / "device.crt").read_bytes())[0]


def register_all(place: Path, dps: EmulatedDps, devices: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Let each device register itself with the client of Microsoft; name → what the client said."""
    root, listed = place / "service-root.pem", place / "devices.txt"
    root.write_text(dps.root_pem)
    listed.write_text("".join(f"{name}={at}/device.crt={at}/device.key\n" for name, at in devices.items()))
    printed = run_tool("azure", "python", CLIENT, dps.host, dps.id_scope, root, f"@{listed}")
    said = [json.loads(line) for line in printed.splitlines() if line.startswith('{"name"')]
    return {one["name"]: one for one in said}


def made_up(directory: Path, name: str, issuer: x509.Certificate, issuer_key: Any, *, ended: bool = False) -> Path:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(issuer.subject, subject, key.public_key(), x509.random_serial_number())
    leaf = (
        builder.not_valid_before(now - timedelta(hours=3))
        .not_valid_after(now - timedelta(hours=1) if ended else now + timedelta(days=1))
        .sign(issuer_key, hashes.SHA256())
    )
    directory.mkdir()
    with os.fdopen(os.open(directory / "device.key", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "device.crt").write_bytes(leaf.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM))
    return directory


def issuing_ca(workspace: Workspace) -> tuple[x509.Certificate, Any]:
    ca = workspace.product("device").ca
    return x509.load_der_x509_certificate(workspace.chain(ca)[0]), workspace.private_key(workspace.ca_key_uri(ca))


def tell_the_cloud(place: Path, dps: EmulatedDps, issuing: x509.Certificate, issuing_key: Any) -> None:
    """Half of the devices are known by their CA, the others each by itself; two of these are not to be let in."""
    verify_ca(dps, issuing, signer(issuing, issuing_key))
    assert dps_call(dps, "PUT", "/enrollmentGroups/line", x509_enrolment("signingCertificates", issuing))[0] == 200
    for start in range(0, len(ALONE), 10):
        members = [
            x509_enrolment(
                "clientCertificates",
                pem(place, serial),
                registrationId=serial,
                deviceId=f"unit-{serial}",
                provisioningStatus="disabled" if serial in (BLOCKED, DISABLED) else "enabled",
            )
            for serial in ALONE[start : start + 10]
        ]
        answer = dps_call(dps, "POST", "/enrollments", {"mode": "create", "enrollments": members})
        assert answer[1] == {"isSuccessful": True, "errors": []}


def test_microsofts_client_registers_what_the_line_made(place: Path, dps: EmulatedDps) -> None:
    assert main(["device", "scrap", BLOCKED, "--reason", "stolen", "-C", str(place / "fab"), "--json"]) == 0
    with open_workspace(place / "fab") as workspace:
        issuing, issuing_key = issuing_ca(workspace)
        ended = made_up(place / "ended", "TH-ENDED", issuing, issuing_key, ended=True)
    tell_the_cloud(place, dps, issuing, issuing_key)
    stranger_key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    stranger = (
        x509.CertificateBuilder(issuing.subject, issuing.subject, stranger_key.public_key(), 7)
        .not_valid_before(now - timedelta(hours=3))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(stranger_key, hashes.SHA256())
    )
    foreign = made_up(place / "foreign", "TH-FOREIGN", stranger, stranger_key)
    devices = {serial: place / "out" / serial for serial in SERIALS}
    said = register_all(place, dps, {**devices, "TH-ENDED": ended, "TH-FOREIGN": foreign})
    let_in = {name: one for name, one in said.items() if "error" not in one}
    assert set(let_in) == set(SERIALS) - {BLOCKED, DISABLED}
    assert {(one["status"], one["hub"], one["sub"]) for one in let_in.values()} == {
        ("assigned", HUB, "initialAssignment")
    }
    assert all(let_in[serial]["device"] == serial for serial in BY_GROUP)
    assert all(let_in[serial]["device"] == f"unit-{serial}" for serial in ALONE[2:])
    assert "disabled" in said[BLOCKED]["error"]
    assert "disabled" in said[DISABLED]["error"]
    assert "401" in said["TH-FOREIGN"]["error"]
    assert "401" in said["TH-ENDED"]["error"]
    known = dps_call(dps, "POST", "/registrations/line/query")[1]
    assert sorted(one["registrationId"] for one in known) == BY_GROUP
    for refused, code, answer in (
        (ended, "cloud.admit.refused", "401002"),
        (foreign, "cloud.admit.refused", "401002"),
        (devices[BLOCKED], "cloud.admit.disabled", "disabled"),
        (devices[DISABLED], "cloud.admit.disabled", "disabled"),
    ):
        trust = str(place / "service-root.pem")
        cloud = AzureDpsDevices(id_scope=dps.id_scope, host=dps.host, port=dps.https_port, trust=trust)
        with pytest.raises(Refused) as caught:
            cloud.admit(FileIdentity(refused / "device.crt", refused / "device.key"), OPEN)
        assert (caught.value.code, caught.value.facts["answer"]) == (code, answer)


def connected(at: Path, name: str, server: Gate, trust: Path) -> str:
    """Connect as a device by paho, publish once with acknowledgement; return "" or what went wrong."""
    context = ssl.create_default_context(cafile=str(trust))
    context.load_cert_chain(at / "device.crt", at / "device.key")
    context.set_alpn_protocols(["x-amzn-mqtt-ca"])
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
    client.tls_set_context(context)
    try:
        client.connect(HOST, server.port)
        told = client.publish(f"things/{name}/up", b"here", qos=1)
        client.loop_start()
        told.wait_for_publish(5)
        return "" if told.is_published() else "no acknowledgement"
    except (OSError, ssl.SSLError, RuntimeError) as problem:
        return str(problem) or type(problem).__name__
    finally:
        client.disconnect()
        client.loop_stop()


def test_the_same_devices_connect_to_a_broker_by_paho(place: Path, tmp_path: Path) -> None:
    for ca in ("issuing", "root"):
        assert main(["ca", "crl", ca, "-C", str(place / "fab"), "--json"]) == 0
    lists = b"".join(
        x509.load_der_x509_crl(found.read_bytes()).public_bytes(Encoding.PEM)
        for found in sorted((place / "fab").glob("**/*.crl"))
    )
    with open_workspace(place / "fab") as workspace:
        cas = workspace.chain(workspace.product("device").ca)
    with broker(tmp_path / "b", cas, crl=lists) as running, gate(running.port) as server, ThreadPoolExecutor(8) as pool:
        tried = pool.map(lambda name: connected(place / "out" / name, name, server, running.trust), SERIALS)
        said = dict(zip(SERIALS, tried, strict=True))
        assert {name for name, wrong in said.items() if wrong} == {BLOCKED}
        assert set(server.hellos) == {(HOST, ("x-amzn-mqtt-ca",))}
        log = running.log.read_text()
    assert sum(f"u'{name}')" in log for name in SERIALS) == DEVICES - 1
    assert "certificate verify failed" in log


def test_the_command_shows_a_device_to_its_cloud_without_any_right_there(
    place: Path, dps: EmulatedDps, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_workspace(place / "fab") as workspace:
        issuing, issuing_key = issuing_ca(workspace)
    verify_ca(dps, issuing, signer(issuing, issuing_key))
    dps_call(dps, "PUT", "/enrollmentGroups/line", x509_enrolment("signingCertificates", issuing))
    (place / "fab" / "service-root.pem").write_text(dps.root_pem)
    address = f"{dps.host}:{dps.https_port}"
    uri = f"azure-dps:{address}?key=env:NOBODY&trust=service-root.pem&scope={dps.id_scope}&device-host={address}"
    with (place / "fab" / "birthmark.toml").open("a") as settings:
        settings.write(f'\n[clouds.azure]\nuri = "{uri}"\n\n[clouds.shelf]\nuri = "export:shelf"\n')
    here = ["--target", f"files:{place}/out/{{device_serial}}", "-C", str(place / "fab"), "--json"]
    (place / "out" / LAST).mkdir()
    capsys.readouterr()
    assert main(["station", "provision", "--device-serial", LAST, "--cloud", "azure", *here]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done["cloud"] == {"service": "azure-dps", "assigned_to": HUB, "device_name": LAST, "key": "device"}
    assert main(["station", "verify", "--device-serial", SERIALS[0], "--cloud", "azure", *here]) == 0
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["step"] for one in steps] == ["probe", "prove", "verify", "cloud", "record", "verify"]
    assert (steps[-1]["status"], steps[-1]["cloud"]["device_name"]) == ("already", SERIALS[0])
    assert main(["device", "show", SERIALS[0], "--history", "-C", str(place / "fab"), "--json"]) == 0
    history = json.loads(capsys.readouterr().out)["history"]
    assert [one["type"] for one in history if "cloud" in one] == ["admitted"]
    assert history[-1]["cloud"]["assigned_to"] == HUB
    report = verify_workspace(place / "fab", processes=1)
    assert (report.errors, report.counts["receipts"]) == (0, DEVICES + 2)
    assert main(["station", "verify", "--device-serial", SERIALS[0], "--cloud", "shelf", *here]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == "cloud.admit.impossible"
    assert main(["station", "verify", "--device-serial", SERIALS[0], "--cloud", "other", *here]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == "settings.cloud"


@pytest.mark.parametrize(("made_of", "code"), [("nothing", "signature"), ("its own receipt", "names")])
def test_the_audit_finds_a_visit_that_nobody_made(place: Path, tmp_path: Path, made_of: str, code: str) -> None:
    copytree(place / "fab", tmp_path / "fab")
    with open_workspace(tmp_path / "fab") as workspace:
        known = workspace.records.device(SERIALS[1])
        entries = (decode_entry(entry) for _, entry in workspace.ledger.entries(0, workspace.ledger.head().size))
        own = next(note for event, note in entries if isinstance(event, Verified) and event.device == SERIALS[1])
        receipt = b"receipt" if made_of == "nothing" else own
        event = Admitted(
            at=utc_text(workspace.clock()),
            device=SERIALS[1],
            station=next(iter(workspace.settings.stations)),
            attempt=known.attempt,
            evidence="signature",
            service="azure-dps",
            receipt_sha256=sha256(receipt).hexdigest(),
        )
        with workspace.ledger.transaction() as tx:
            tx.append(event, receipt)
    report = verify_workspace(tmp_path / "fab", processes=1)
    assert [one.code for one in report.findings] == [f"audit.receipt.{code}"]


def test_registered_by_birthmark_and_then_let_in_until_it_ends(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: verified, registered one by one, shown to the cloud, scrapped, blocked, not let in any more."""
    copytree(place / "fab", tmp_path / "fab")
    fab = ["-C", str(tmp_path / "fab"), "--json"]
    serial = SERIALS[3]
    shown = ["--device-serial", serial, "--target", f"files:{place}/out/{{device_serial}}", "--cloud", "mine"]
    with EmulatedDps(mqtt_port=0, assigning_s=0) as dps:
        monkeypatch.setenv("DPS_KEY", dps.key)
        (tmp_path / "fab" / "mine.pem").write_text(dps.root_pem)
        address = f"{dps.host}:{dps.https_port}"
        options = (
            f"mode=individual&rate=100000&key=env:DPS_KEY&trust=mine.pem&scope={dps.id_scope}&device-host={address}"
        )
        with (tmp_path / "fab" / "birthmark.toml").open("a") as settings:
            settings.write(f'\n[clouds.mine]\nuri = "azure-dps:{address}?{options}"\n')
        assert main(["station", "verify", *shown, *fab]) == 3
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["facts"]["answer"] == "401002"
        assert main(["register", "run", "mine", *fab]) == 0
        assert main(["station", "verify", *shown, *fab]) == 0
        capsys.readouterr()
        assert main(["device", "scrap", serial, "--reason", "dropped", *fab]) == 0
        assert main(["register", "run", "mine", *fab]) == 0
        door = AzureDpsDevices(
            id_scope=dps.id_scope, host=dps.host, port=dps.https_port, trust=str(tmp_path / "fab" / "mine.pem")
        )
        held = place / "out" / serial
        with pytest.raises(Refused) as caught:
            door.admit(FileIdentity(held / "device.crt", held / "device.key"), OPEN)
    assert caught.value.code == "cloud.admit.disabled"


def test_whoever_checks_the_evidence_reads_the_visits_too(
    tmp_path: Path, dps: EmulatedDps, capsys: pytest.CaptureFixture[str]
) -> None:
    make_workspace(tmp_path / "fab")
    fab = ["-C", str(tmp_path / "fab"), "--json"]
    assert main(["order", "create", "lot1", "--product", "device", "--quantity", "3", "--first", "EV-1", *fab]) == 0
    assert main(["order", "make", "lot1", "--processes", "1", *fab]) == 0
    with open_workspace(tmp_path / "fab") as workspace:
        issuing, key = issuing_ca(workspace)
    verify_ca(dps, issuing, signer(issuing, key))
    dps_call(dps, "PUT", "/enrollmentGroups/evidence", x509_enrolment("signingCertificates", issuing))
    (tmp_path / "fab" / "root.pem").write_text(dps.root_pem)
    address = f"{dps.host}:{dps.https_port}"
    uri = f"azure-dps:{address}?key=env:NOBODY&trust=root.pem&scope={dps.id_scope}&device-host={address}"
    with (tmp_path / "fab" / "birthmark.toml").open("a") as settings:
        settings.write(f'\n[clouds.azure]\nuri = "{uri}"\n')
    for serial, cloud in (("EV-1", ["--cloud", "azure"]), ("EV-2", [])):
        (tmp_path / "out" / serial).mkdir(parents=True)
        one = ["--device-serial", serial, "--target", f"files:{tmp_path}/out/{serial}"]
        assert main(["station", "provision", *one, *cloud, *fab]) == 0
        assert main(["station", "verify", *one, "--cloud", "azure", *fab]) == 0
    (tmp_path / "out" / "EV-3").mkdir()
    unusable = ["--device-serial", "EV-3", "--target", f"files:{tmp_path}/out/EV-3?layout=der", "--cloud", "azure"]
    capsys.readouterr()
    assert main(["station", "provision", *unusable, *fab]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["cloud"]["key"] == "station"
    assert main(["station", "verify", *unusable, *fab]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == "handshake.target"
    page, evidence = tmp_path / "evidence.html", tmp_path / "evidence"
    assert main(["audit", "report", str(tmp_path / "fab"), "-o", str(page), "--json"]) == 0
    assert "let into azure-dps before leaving: 4" in page.read_text()
    assert main(["ledger", "replay", *fab]) == 0
    assert main(["audit", "export", str(tmp_path / "fab"), "-o", str(evidence), "--json"]) == 0
    vkey = (evidence / "log" / "vkey").read_text().strip()
    command = [sys.executable, "-I", "check.py", ".", vkey]
    checked = subprocess.run(command, cwd=evidence, capture_output=True, text=True, check=True)
    assert "5 receipts" in checked.stdout
