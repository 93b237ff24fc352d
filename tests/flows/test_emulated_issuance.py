"""The emulated service lets devices in by symmetric keys and issues certificates: Microsoft's client, OpenSSL."""

from __future__ import annotations

import base64
import hmac
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import quote

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.testing.dps import DpsLimits, EmulatedDps
from support.serviceworld import device_csr
from support.vendortools import run_tool

CLIENT = Path(__file__).resolve().parents[1] / "support" / "azurekeys.py"
GROUP_KEY = base64.b64encode(bytes(range(64))).decode()
ISSUING = "2025-07-01-preview"


@pytest.fixture
def dps() -> Iterator[EmulatedDps]:
    host = f"127.17.{os.getpid() % 200 + 20}.8"  # the client's port is fixed: parallel tests take an address each
    policies, limits = {"default": 30, "short": 7}, DpsLimits(polls_in_10_s=100)
    with EmulatedDps(host=host, assigning_s=0.2, limits=limits, credential_policies=policies) as running:
        enrol(running, "enrollmentGroups/line", key=GROUP_KEY, credentialPolicyName="short")
        yield running


def device_key(name: str, group_key: str = GROUP_KEY) -> str:
    return base64.b64encode(hmac.digest(base64.b64decode(group_key), name.encode(), "sha256")).decode()


def call(dps: EmulatedDps, method: str, path: str, body: Any, token: str) -> tuple[int, Any]:
    trust = ssl.create_default_context(cadata=dps.root_pem)
    connection = HTTPSConnection(dps.host, dps.https_port, context=trust, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Authorization": token})
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
    finally:
        connection.close()


def enrol(dps: EmulatedDps, path: str, *, key: str | None = None, **more: Any) -> None:
    keys = {} if key is None else {"primaryKey": key}
    body = {"attestation": {"type": "symmetricKey", "symmetricKey": keys}, **more}
    status, said = call(dps, "PUT", f"/{path}", body, dps.sas_token())
    assert status == 200, said
    assert said["attestation"]["symmetricKey"] == {}


def token(dps: EmulatedDps, name: str, key: str, *, seconds: int = 600, scope: str = "") -> str:
    audience, expiry = quote(f"{scope or dps.id_scope}/registrations/{name}", safe=""), int(time.time()) + seconds
    signed = hmac.digest(base64.b64decode(key), f"{audience}\n{expiry}".encode(), "sha256")
    signature = quote(base64.b64encode(signed).decode(), safe="")
    return f"SharedAccessSignature sr={audience}&sig={signature}&se={expiry}&skn=registration"


def register(
    dps: EmulatedDps, name: str, shown: str, *, version: str = ISSUING, **body: Any
) -> tuple[int, dict[str, Any]]:
    """Register and poll to the end."""
    path = f"/{dps.id_scope}/registrations/{name}"
    status, said = call(dps, "PUT", f"{path}/register?api-version={version}", body, shown)
    while status == 202:
        time.sleep(0.1)
        poll = f"{path}/operations/{said['operationId']}?api-version={version}"
        status, said = call(dps, "GET", poll, None, shown)
    return status, said


def text(der: bytes) -> str:
    return base64.b64encode(der).decode()


def test_microsofts_client_is_let_in_by_the_keys_of_a_group_and_of_a_device(dps: EmulatedDps, tmp_path: Path) -> None:
    own = base64.b64encode(os.urandom(32)).decode()
    enrol(dps, "enrollments/alone", key=own, deviceId="unit-alone")
    enrol(dps, "enrollments/made")
    enrol(dps, "enrollments/blocked", key=own, provisioningStatus="disabled")
    made = call(dps, "POST", "/enrollments/made/attestationmechanism", None, dps.sas_token())[1]["symmetricKey"]
    keys = {
        "grouped": device_key("grouped"),
        "alone": own,
        "made": made["secondaryKey"],
        "blocked": own,
        "wrong": device_key("another"),
    }
    (tmp_path / "root.pem").write_text(dps.root_pem)
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    printed = run_tool("azure", "python", CLIENT, dps.host, dps.id_scope, tmp_path / "root.pem", tmp_path / "keys.json")
    seen = {one["name"]: one for one in map(json.loads, printed.splitlines()) if "name" in one}
    hub = "hub.azure-devices.net"
    assert seen["grouped"] == {
        "name": "grouped", "status": "assigned", "hub": hub, "device": "grouped", "sub": "initialAssignment",
    }  # fmt: skip
    assert (seen["alone"]["status"], seen["alone"]["device"]) == ("assigned", "unit-alone")
    assert seen["made"]["status"] == "assigned"
    assert "disabled" in seen["blocked"]["error"]
    assert "401" in seen["wrong"]["error"]


def test_a_token_holds_for_one_device_one_scope_and_its_time(dps: EmulatedDps) -> None:
    key = device_key("d")
    assert register(dps, "d", token(dps, "d", key))[0] == 200
    for shown in (
        token(dps, "e", key),
        token(dps, "d", GROUP_KEY),
        token(dps, "d", key, seconds=-1),
        token(dps, "d", key, scope="0ne0other"),
        token(dps, "d", key).replace("skn=registration", "skn=owner"),
        token(dps, "d", key).replace("sig=", "sig=AA"),
        "SharedAccessSignature " + "a=b&" * 20,
        "SharedAccessSignature",
        "Bearer x",
    ):
        status, said = register(dps, "d", shown)
        assert (status, said["errorCode"]) == (401, 401002), shown
    assert register(dps, "d", "")[0] == 401


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), None])
def test_a_certificate_comes_with_its_chain_and_openssl_verifies_it(dps: EmulatedDps, tmp_path: Path, key: Any) -> None:
    shown = token(dps, "unit-1", device_key("unit-1"))
    csr = device_csr("unit-1", key)
    status, said = register(dps, "unit-1", shown, csr=text(csr), registrationId="unit-1")
    assert (status, said["status"]) == (200, "assigned")
    chain = [base64.b64decode(one) for one in said["registrationState"]["issuedCertificateChain"]]
    leaf, issuing, root = (x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
    assert (issuing + root).decode() == dps.registry.chain_pem("short")
    for name, pem in (("leaf", leaf), ("issuing", issuing), ("root", root)):
        (tmp_path / f"{name}.pem").write_bytes(pem)
    trust = ["-x509_strict", "-purpose", "sslclient", "-CAfile", "root.pem", "-untrusted", "issuing.pem"]
    done = subprocess.run(
        ["openssl", "verify", *trust, "leaf.pem"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    asked, got = x509.load_der_x509_csr(csr), x509.load_der_x509_certificate(chain[0])
    assert got.public_key() == asked.public_key()
    days = (got.not_valid_after_utc - got.not_valid_before_utc).days
    assert (got.subject.rfc4514_string(), days) == ("CN=unit-1", 7)
    again = register(dps, "unit-1", shown, csr=text(csr))[1]["registrationState"]["issuedCertificateChain"]
    assert again[0] != text(chain[0])
    path = f"/{dps.id_scope}/registrations/unit-1?api-version={ISSUING}"
    status, state = call(dps, "POST", path, {"registrationId": "unit-1"}, shown)
    assert (status, "issuedCertificateChain" in state) == (200, False)
    assert state["symmetricKey"] == {"enrollmentGroupId": "line"}
    assert call(dps, "POST", path, {"csr": text(csr)}, shown)[0] == 400


def test_what_is_no_request_for_this_device_gets_no_certificate(dps: EmulatedDps) -> None:
    shown = token(dps, "unit-1", device_key("unit-1"))
    csr = device_csr("unit-1")
    pem = x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()
    forged = bytearray(csr)
    forged[-1] ^= 1
    weird = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    nameless = weird.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
    for sent in (text(device_csr("unit-2")), pem, text(bytes(forged)), text(nameless), "", 7, "A" * 20_000, {"a": 1}):
        status, said = register(dps, "unit-1", shown, csr=sent)
        assert (status, said["errorCode"]) == (400, 400014), sent
    assert register(dps, "unit-1", shown, csr=text(csr), version="2021-10-01")[0] == 400
    enrol(dps, "enrollments/plain", key=GROUP_KEY)
    status, said = register(dps, "plain", token(dps, "plain", GROUP_KEY), csr=text(device_csr("plain")))
    assert (status, said["errorCode"]) == (400, 400015)


@pytest.mark.parametrize("key", ["AAAA", "no base64 at all", 5, base64.b64encode(bytes(65)).decode()])
def test_a_key_that_is_none_makes_no_enrolment(dps: EmulatedDps, key: Any) -> None:
    body = {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": key}}}
    assert call(dps, "PUT", "/enrollments/bad", body, dps.sas_token())[0] == 400


def test_a_request_over_mqtt_gets_its_certificate(dps: EmulatedDps, tmp_path: Path) -> None:
    """Topics and user name as in Azure's "DPS MQTT support"; the client is Eclipse Paho."""
    answers: Queue[tuple[str, dict[str, Any]]] = Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="unit-1", protocol=mqtt.MQTTv311)
    client.username_pw_set(
        f"{dps.id_scope}/registrations/unit-1/api-version={ISSUING}", token(dps, "unit-1", device_key("unit-1"))
    )
    client.tls_set_context(ssl.create_default_context(cadata=dps.root_pem))
    client.on_message = lambda _client, _data, message: answers.put((message.topic, json.loads(message.payload)))
    client.on_subscribe = lambda *_: answers.put(("subscribed", {}))
    assert client.connect(dps.host, dps.mqtt_port) == mqtt.MQTT_ERR_SUCCESS
    client.loop_start()
    try:
        client.subscribe("$dps/registrations/res/#")
        assert answers.get(timeout=10)[0] == "subscribed"
        body = json.dumps({"registrationId": "unit-1", "csr": text(device_csr("unit-1"))})
        client.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", body)
        topic, said = answers.get(timeout=10)
        assert topic.startswith("$dps/registrations/res/202/?$rid=1&retry-after=")
        time.sleep(0.3)
        operation = said["operationId"]
        client.publish(f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={operation}", "")
        topic, said = answers.get(timeout=10)
        assert topic == "$dps/registrations/res/200/?$rid=2"
    finally:
        client.disconnect()
        client.loop_stop()
    leaf = x509.load_der_x509_certificate(base64.b64decode(said["registrationState"]["issuedCertificateChain"][0]))
    assert leaf.subject.rfc4514_string() == "CN=unit-1"


def test_the_command_writes_what_users_of_issued_certificates_have_to_know(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import sys; from birthmark.shell.cli.main import main; sys.exit(main())"]
    command = [*program, "emulate", "dps", "--directory", str(tmp_path / "e"), "--mqtt-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("https 127.0.0.1:")
        process.terminate()
        assert process.wait(timeout=30) == 0
    issuing, root = x509.load_pem_x509_certificates((tmp_path / "e" / "registry.pem").read_bytes())
    issuing.verify_directly_issued_by(root)
