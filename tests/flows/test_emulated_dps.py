"""Microsoft's own clients against the emulated Device Provisioning Service, with certificates of a test CA."""

from __future__ import annotations

import json
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.testing.dps import DpsLimits, EmulatedDps, FaultPlan
from support.dpsservice import signer, verify_ca
from support.stationworld import Factory, build_factory
from support.vendortools import run_tool

ARM = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Devices/provisioningServices/dps1/certificates"
CLIENT = Path(__file__).resolve().parents[1] / "support" / "azuredevices.py"


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("factory"))


@pytest.fixture
def dps() -> Iterator[EmulatedDps]:
    host = f"127.{os.getpid() % 200 + 20}.0.7"  # the client's port is fixed: parallel tests take an address each
    with EmulatedDps(host=host, assigning_s=0.5) as running:
        yield running


def call(
    dps: EmulatedDps, method: str, path: str, body: Any = None, device: Path | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    trust = ssl.create_default_context(cadata=dps.root_pem)
    if device is not None:
        trust.load_cert_chain(device / "chain.pem", device / "key.pem")
    token = f"Bearer {dps.management_token}" if path.startswith(("/subs", "/_em")) else dps.sas_token()
    sent = {"Authorization": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection = HTTPSConnection(dps.host, dps.https_port, context=trust, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None, {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def certificate(
    cn: str, issuer: x509.Certificate, issuer_key: Any, *, ended: bool = False
) -> tuple[x509.Certificate, Any]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    end = now - timedelta(hours=1) if ended else now + timedelta(days=1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    builder = x509.CertificateBuilder(issuer.subject, name, key.public_key(), x509.random_serial_number())
    built = builder.not_valid_before(now - timedelta(hours=2)).not_valid_after(end)
    return built.sign(issuer_key, hashes.SHA256()), key


def files(directory: Path, leaf: x509.Certificate, key: Any, *others: x509.Certificate) -> Path:
    directory.mkdir()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(directory / "key.pem", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(pem)
    (directory / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, *others)))
    return directory


def authority(factory: Factory) -> tuple[x509.Certificate, x509.Certificate]:
    with factory.line() as line:
        issuing, root = (x509.load_der_x509_certificate(der) for der in line.chain_of("issuing"))
    return issuing, root


def pem(one: x509.Certificate) -> str:
    return one.public_bytes(Encoding.PEM).decode()


def x509_enrollment(kind: str, one: x509.Certificate, **more: Any) -> dict[str, Any]:
    return {"attestation": {"type": "x509", "x509": {kind: {"primary": {"certificate": pem(one)}}}}, **more}


def sdk(dps: EmulatedDps, tmp_path: Path, **devices: Path) -> dict[str, dict[str, Any]]:
    root = tmp_path / "server-root.pem"
    root.write_text(dps.root_pem)
    told = [f"{name.replace('_', '-')}={place / 'chain.pem'}={place / 'key.pem'}" for name, place in devices.items()]
    printed = run_tool("azure", "python", CLIENT, dps.host, dps.id_scope, root, *told)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"name"')]
    return {one["name"]: one for one in lines}


def test_microsofts_client_is_assigned_by_group_and_individually_and_refused_otherwise(
    factory: Factory, dps: EmulatedDps, tmp_path: Path
) -> None:
    issuing, _root = authority(factory)
    key = factory.read_key("issuing")
    group, alone, blocked, ended = (
        files(tmp_path / cn, *certificate(cn, issuing, key, ended=cn == "ended"), issuing)
        for cn in ("grouped", "alone", "blocked", "ended")
    )
    stranger, stranger_key = certificate("Foreign CA", issuing, ec.generate_private_key(ec.SECP256R1()))
    foreign = files(tmp_path / "foreign", *certificate("foreign", stranger, stranger_key), stranger)
    verify_ca(dps, issuing, signer(issuing, key))
    assert call(dps, "PUT", "/enrollmentGroups/line", x509_enrollment("signingCertificates", issuing))[0] == 200
    for place, status in ((alone, "enabled"), (blocked, "disabled")):
        leaf = x509.load_pem_x509_certificates((place / "chain.pem").read_bytes())[0]
        body = x509_enrollment("clientCertificates", leaf, provisioningStatus=status, deviceId=f"unit-{place.name}")
        assert call(dps, "PUT", f"/enrollments/{place.name}", body)[0] == 200
    seen = sdk(dps, tmp_path, grouped=group, alone=alone, blocked=blocked, ended=ended, foreign=foreign)
    hub = "hub.azure-devices.net"
    assert seen["grouped"] == {
        "name": "grouped", "status": "assigned", "hub": hub, "device": "grouped", "sub": "initialAssignment",
    }  # fmt: skip
    assert (seen["alone"]["status"], seen["alone"]["device"]) == ("assigned", "unit-alone")
    assert "disabled" in seen["blocked"]["error"]
    assert "401" in seen["ended"]["error"]
    assert "401" in seen["foreign"]["error"]
    states = call(dps, "POST", "/registrations/line/query")[1]
    assert [one["registrationId"] for one in states] == ["grouped"]


def test_https_polls_until_assigned_and_names_what_is_wrong(factory: Factory, dps: EmulatedDps, tmp_path: Path) -> None:
    issuing, _root = authority(factory)
    device = files(tmp_path / "d", *certificate("d", issuing, factory.read_key("issuing")), issuing)
    path, version = f"/{dps.id_scope}/registrations/d", "?api-version=2021-06-01"
    refused = call(dps, "PUT", f"{path}/register{version}", {"registrationId": "d"}, device)
    assert (refused[0], refused[1]["errorCode"], refused[1]["message"]) == (401, 401002, "CA certificate not found.")
    call(dps, "PUT", "/enrollmentGroups/line", x509_enrollment("signingCertificates", issuing))
    refused = call(dps, "PUT", f"{path}/register{version}", {"registrationId": "d"}, device)
    assert (refused[0], refused[1]["errorCode"], refused[1]["message"]) == (401, 401002, "CA certificate not found.")
    verify_ca(dps, issuing, signer(issuing, factory.read_key("issuing")))
    status, body, headers = call(dps, "PUT", f"{path}/register{version}", {"registrationId": "d"}, device)
    assert (status, body["status"], headers["retry-after"]) == (202, "assigning", "1")
    poll = f"{path}/operations/{body['operationId']}{version}"
    assert call(dps, "GET", poll, None, device)[0] == 202
    import time

    time.sleep(0.6)
    assert call(dps, "GET", poll, None, device)[1]["registrationState"]["status"] == "assigned"
    other = call(dps, "PUT", f"/{dps.id_scope}/registrations/e/register{version}", {}, device)
    assert other[1]["errorCode"] == 401002


def test_possession_of_a_ca_is_proven_and_a_reference_then_lets_devices_in(
    factory: Factory, dps: EmulatedDps, tmp_path: Path
) -> None:
    issuing, _root = authority(factory)
    body = {"properties": {"certificate": b64encode(issuing.public_bytes(Encoding.DER)).decode()}}
    assert call(dps, "PUT", f"{ARM}/ca1", body)[1]["properties"]["isVerified"] is False
    etag = call(dps, "GET", f"{ARM}/ca1")[1]["etag"]
    assert call(dps, "POST", f"{ARM}/ca1/generateVerificationCode", If_Match="wrong")[0] == 412
    asked = call(dps, "POST", f"{ARM}/ca1/generateVerificationCode", If_Match=etag)[1]
    code = asked["properties"]["verificationCode"]
    forged, _ = certificate(code, issuing, ec.generate_private_key(ec.SECP256R1()))
    proof, _ = certificate(code, issuing, factory.read_key("issuing"))
    path = f"{ARM}/ca1/verify"
    assert call(dps, "POST", path, {"certificate": pem(forged)}, If_Match=asked["etag"])[0] == 400
    verified = call(dps, "POST", path, {"certificate": pem(proof)}, If_Match=asked["etag"])
    assert verified[1]["properties"]["isVerified"] is True
    reference = {"attestation": {"type": "x509", "x509": {"caReferences": {"primary": "ca1"}}}}
    assert call(dps, "PUT", "/enrollmentGroups/line", reference)[0] == 200
    device = files(tmp_path / "d", *certificate("d", issuing, factory.read_key("issuing")), issuing)
    register = f"/{dps.id_scope}/registrations/d/register?api-version=2019-03-31"
    assert call(dps, "PUT", register, {}, device)[0] == 202


def test_bulk_query_etags_limits_and_faults_are_as_documented(factory: Factory) -> None:
    issuing, _root = authority(factory)
    limits = DpsLimits(operations_a_minute=8)
    with EmulatedDps(mqtt_port=0, limits=limits, monotonic=lambda: 0.0) as dps:
        members = [{**x509_enrollment("clientCertificates", issuing), "registrationId": f"d{n}"} for n in range(11)]
        assert call(dps, "POST", "/enrollments", {"mode": "create", "enrollments": members})[0] == 400
        bulk = {"mode": "create", "enrollments": members[:3]}
        assert call(dps, "POST", "/enrollments", bulk)[1] == {"isSuccessful": True, "errors": []}
        again = call(dps, "POST", "/enrollments", bulk)[1]
        assert [one["errorCode"] for one in again["errors"]] == [409201] * 3
        query = {"query": "SELECT * FROM enrollments"}
        _, rows, headers = call(dps, "POST", "/enrollments/query", query, x_ms_max_item_count="2")
        assert [row["registrationId"] for row in rows] == ["d0", "d1"]
        rest = call(dps, "POST", "/enrollments/query", query, x_ms_continuation=headers["x-ms-continuation"])
        assert [row["registrationId"] for row in rest[1]] == ["d2"]
        dps.faults.set(FaultPlan(lost=1.0))
        with pytest.raises(RemoteDisconnected):
            call(dps, "DELETE", "/enrollments/d0")
        assert call(dps, "PUT", "/_emulator/faults", {"half_bulk": 1.0})[0] == 204
        assert call(dps, "GET", "/enrollments/d0")[0] == 404
        assert (
            call(dps, "POST", "/enrollments", {"mode": "delete", "enrollments": members[1:3]})[1]["isSuccessful"]
            is False
        )
        status, _, headers = call(dps, "GET", "/enrollments/d1")
        assert (status, headers["retry-after"]) == (429, "8")


@pytest.mark.parametrize("sent", [b"\x10\xff\xff\xff\xff\x01", b"\x30\x02\x00\x09", b"\x10\x04\x00\x04MQ"])
def test_what_is_not_mqtt_is_cut_off_and_the_next_client_is_served(sent: bytes) -> None:
    with EmulatedDps(mqtt_port=0) as dps:
        trust = ssl.create_default_context(cadata=dps.root_pem)
        plain = socket.create_connection((dps.host, dps.mqtt_port), timeout=5)
        with trust.wrap_socket(plain, server_hostname=dps.host) as stream:
            stream.sendall(sent)
            assert stream.recv(16) == b""
        assert call(dps, "POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"})[1] == []
        status = call(dps, "GET", "/enrollments/x", Authorization="SharedAccessSignature " + "a=b&" * 20)[0]
        assert status == 400
