"""The service side of the emulated DPS, driven by Microsoft's clients: two of the service, one of the resource."""

from __future__ import annotations

import json
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.testing.dps import EmulatedDps
from support.dpsdevices import call, new_root, register, text_of
from support.dpsservice import signer, verify_ca
from support.vendortools import tool

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "azureservice.py"


RUNNING: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    yield
    for one in RUNNING:
        one.kill()
        one.communicate()
    RUNNING.clear()


def start(tmp_path: Path, dps: EmulatedDps, which: str, **more: str) -> subprocess.Popen[str]:
    root = tmp_path / "server-root.pem"
    root.write_text(dps.root_pem)
    told = {"host": f"{dps.host}:{dps.https_port}", "root": str(root), "connection": dps.connection_string, **more}
    command = [str(tool("azure")), str(SCRIPT), which, json.dumps(told)]
    RUNNING.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return RUNNING[-1]


def finish(running: subprocess.Popen[str]) -> dict[str, Any]:
    printed, complained = running.communicate(timeout=110)
    assert running.returncode == 0, complained
    return dict(json.loads(printed.splitlines()[-1]))


def wait_for(path: Path, running: subprocess.Popen[str]) -> str:
    for _ in range(3000):
        if path.exists() and path.read_text():
            return path.read_text()
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.01)
    raise AssertionError(f"{path} was not written")


def test_the_resource_client_proves_possession_of_a_ca_and_reads_keys(tmp_path: Path) -> None:
    root = new_root()
    code_file, proof_file = tmp_path / "code", tmp_path / "proof"
    with EmulatedDps(mqtt_port=0, hubs=["a.azure-devices.net", "b.azure-devices.net"]) as dps:
        running = start(
            tmp_path, dps, "resource", token=dps.management_token, ca=b64encode(root.pem.encode()).decode(),
            code_file=str(code_file), proof_file=str(proof_file), policy=dps.policy,
        )  # fmt: skip
        code = wait_for(code_file, running)
        proof = root.leaf(code, ec.generate_private_key(ec.SECP256R1()))
        (tmp_path / "proof.new").write_text(text_of(proof))
        (tmp_path / "proof.new").rename(proof_file)
        seen = finish(running)
        assert seen["made"][:2] == ["line", False]
        assert seen["made"][3] == "CN=Test root"
        assert seen["expiry"] == root.certificate.not_valid_after_utc.isoformat()
        assert seen["stale"] == ["ResourceModifiedError", 412, 412001]
        assert (seen["verified"], seen["trusted"]) == (True, True)
        assert (seen["listed"], seen["left"]) == (["line", "trusted"], ["trusted"])
        assert seen["missing"] == ["ResourceNotFoundError", 404, 404201]
        assert seen["service"] == ["dps1", dps.id_scope, f"{dps.host}:{dps.https_port}"]
        kind = "providers/Microsoft.Devices/provisioningServices/dps"
        groups = [f"/subscriptions/sub/resourceGroups/{group}/{kind}" for group in ("emulated", "rg")]
        assert seen["services"] == groups
        assert seen["hubs"] == ["a.azure-devices.net", "b.azure-devices.net"]
        assert (seen["keys"], seen["key"], seen["free"]) == ([[dps.policy, dps.key]], dps.key, True)


def test_the_service_client_of_2021_enrols_pages_rolls_and_forgets(tmp_path: Path) -> None:
    root = new_root()
    unit = root.device(tmp_path, "d0")
    ready, registered = tmp_path / "ready", tmp_path / "registered"
    with EmulatedDps(mqtt_port=0, assigning_s=0) as dps:
        endorsement = b64encode(b"\x01" * 256).decode()
        running = start(
            tmp_path, dps, "modern", leaf=text_of(unit.certificate), ca=b64encode(root.pem.encode()).decode(),
            endorsement=endorsement, ready_file=str(ready), registered_file=str(registered),
        )  # fmt: skip
        wait_for(ready, running)
        verify_ca(dps, root.certificate, signer(root.certificate, root.key))
        assert register(dps, root.device(tmp_path, "made-by-line"))[0] == 200
        registered.write_text("yes")
        seen = finish(running)
    policy = {"updateHubAssignment": True, "migrateDeviceData": True}
    assert seen["made"] == ["unit-0", "enabled", "hashed", policy]
    assert seen["info"]["subjectName"] == "CN=d0"
    assert seen["again"] == ["ResourceExistsError", 409, 409201]
    assert (seen["changed"], seen["stale"]) == ("disabled", ["HttpResponseError", 412, 412001])
    assert seen["bulk"] == [False, [["d0", 409201]]]
    assert seen["many"] == ["HttpResponseError", 400, 400010]
    assert seen["pages"] == [["d0", "d1", "d2", "d3"], ["d4", "d5", "d6", "d7"], ["d8", "d9"]]
    assert seen["hidden"] == {"type": "tpm", "tpm": {}}
    assert seen["shown"] == {"type": "tpm", "tpm": {"endorsementKey": endorsement}}
    assert seen["deleted"] == ["ResourceNotFoundError", 404, 404201]
    assert (seen["group"], seen["groups"], seen["groupMechanism"]) == ("line", ["line"], ["signingCertificates"])
    assert seen["groupBulk"] is True
    assert seen["state"] == ["assigned", "hub.azure-devices.net", "initialAssignment"]
    assert seen["states"] == ["made-by-line"]
    assert seen["forgotten"] == ["ResourceNotFoundError", 404, 404201]
    assert seen["foreign"] == ["ClientAuthenticationError", 401, 401000]


def test_the_service_client_of_2018_enrols_changes_and_pages(tmp_path: Path) -> None:
    unit = new_root().device(tmp_path, "e0")
    with EmulatedDps(mqtt_port=0, hubs=["a.azure-devices.net", "b.azure-devices.net"]) as dps:
        leaf = unit.certificate.public_bytes(Encoding.PEM).decode()
        seen = finish(start(tmp_path, dps, "elder", leaf=leaf, hub="b.azure-devices.net"))
        assert seen["made"] == ["e0", "enabled", False]
        assert (seen["changed"], seen["bulk"]) == ("disabled", True)
        assert seen["pages"] == [["e0", "e1", "e2"], ["e3"]]
        assert seen["deleted"][0] == "ProvisioningServiceError"
        assert "e0" not in dps.enrollments


def test_what_the_resource_client_never_asks_is_refused_in_the_shape_of_the_provider() -> None:
    base = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Devices/provisioningServices/dps1"
    with EmulatedDps(mqtt_port=0) as dps:
        for method, path, status in (
            ("GET", "/subscriptions/s/elsewhere", 404),
            ("PATCH", base, 405),
            ("POST", f"{base}/keys/other/listkeys", 404),
            ("PUT", f"{base}/certificates/line", 400),
        ):
            got, body, _ = call(dps, method, path, {})
            assert (got, body["httpStatusCode"], body["code"] // 1000) == (status, str(status), status)
        assert call(dps, "GET", base, Authorization="Bearer wrong")[0] == 401
