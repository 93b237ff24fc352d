"""The registries of the emulated hubs: filled as devices are assigned, and changed by Microsoft's service client."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from birthmark.testing.dps import DpsLimits, EmulatedDps
from support.dpsdevices import Device, individual_of, new_root, register
from support.vendortools import tool

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "azurehub.py"
A, B = "a.azure-devices.net", "b.azure-devices.net"


def registry(dps: EmulatedDps, hub: str, directory: Path, act: str, *devices: str) -> dict[str, Any]:
    """Ask the registry of a hub through Microsoft's client."""
    root = directory / "hub-root.pem"
    root.write_text(dps.root_pem)
    environment = {**os.environ, "HUB_CONNECTION": dps.hubs[hub].connection_string}
    command = [str(tool("azure")), str(SCRIPT), str(root), act, *devices]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def thumbprint(device: Device) -> str:
    return device.certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303  what a hub shows


def test_microsofts_service_client_disables_a_device_that_was_assigned(tmp_path: Path) -> None:
    device = new_root().device(tmp_path, "d1")
    with EmulatedDps(mqtt_port=0, hubs=[A, B], assigning_s=0) as dps:
        dps.enrollments.put(individual_of("d1", device.certificate, iotHubs=[B]))
        assert register(dps, device)[1]["registrationState"]["assignedHub"] == B
        assert len(dps.hubs[A]) == 0
        seen = registry(dps, B, tmp_path, "story", "d1")
        assert (seen["first"]["status"], seen["first"]["type"]) == ("enabled", "selfSigned")
        assert seen["first"]["thumbprint"] == thumbprint(device)
        assert (seen["disabled"]["status"], seen["disabled"]["reason"]) == ("disabled", "by hand")
        assert seen["disabled"]["etag"] != seen["first"]["etag"]
        assert seen["disabled"]["generation"] == seen["first"]["generation"]
        assert seen["stale"] == [412, "PreconditionFailed"]
        assert seen["again"] == [409, "DeviceAlreadyExists"]
        assert (seen["ca"]["type"], seen["ca"]["status"], seen["keys"]) == ("certificateAuthority", "disabled", "sas")
        assert seen["listed"] == ["by-ca", "by-key", "d1"]
        assert seen["counts"] == [3, 1, 2]
        assert seen["gone"] == seen["none"] == [404, "DeviceNotFound"]
        assert seen["foreign"] == [401, "IotHubUnauthorizedAccess"]
        assert registry(dps, A, tmp_path, "look", "d1") == {"d1": [404, "DeviceNotFound"]}


def test_registering_again_keeps_the_status_and_gives_the_hub_the_new_certificate(tmp_path: Path) -> None:
    root = new_root()
    first, second = root.device(tmp_path, "d1"), root.device(tmp_path, "d1")
    with EmulatedDps(mqtt_port=0, hubs=[A], assigning_s=0) as dps:
        dps.enrollments.put(individual_of("d1", first.certificate, second.certificate))
        register(dps, first)
        made = dps.hubs[A].get("d1")
        dps.hubs[A].put({**made, "status": "disabled", "statusReason": "stolen"})
        for device in (first, second):
            register(dps, device)
            now = dps.hubs[A].get("d1")
            assert (now["status"], now["statusReason"]) == ("disabled", "stolen")
            assert now["generationId"] == made["generationId"]
            assert now["authentication"]["x509Thumbprint"]["primaryThumbprint"] == thumbprint(device)


@pytest.mark.parametrize(("migrate", "status"), [(True, "disabled"), (False, "enabled")])
def test_a_device_that_moves_leaves_its_old_hub_and_takes_its_status_along_with_its_data(
    tmp_path: Path, migrate: bool, status: str
) -> None:
    device = new_root().device(tmp_path, "d1")
    policy = {"updateHubAssignment": True, "migrateDeviceData": migrate}
    with EmulatedDps(mqtt_port=0, hubs=[A, B], assigning_s=0) as dps:
        for hub, other in ((A, B), (B, A)):
            dps.enrollments.put(individual_of("d1", device.certificate, iotHubs=[hub], reprovisionPolicy=policy))
            assert register(dps, device)[1]["registrationState"]["assignedHub"] == hub
            assert ("d1" in dps.hubs[hub], "d1" in dps.hubs[other]) == (True, False)
            if hub == A:
                dps.hubs[A].put({**dps.hubs[A].get("d1"), "status": "disabled"})
        assert [one["status"] for one in dps.hubs[B].list()] == [status]
        dps.hubs[B].delete("d1")
        with pytest.raises(KeyError):
            dps.hubs[B].get("d1")


def test_a_hub_counts_its_own_calls_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with EmulatedDps(mqtt_port=0, hubs=[A], limits=DpsLimits(hub_calls_a_minute=1)) as dps:
        assert registry(dps, A, tmp_path, "look", "d1") == {"d1": [404, "DeviceNotFound"]}
        assert registry(dps, A, tmp_path, "look", "d1") == {"d1": [429, "ThrottlingException"]}
        for wrong in ({"status": "asleep"}, {"statusReason": "x" * 129}, {"authentication": {"type": "selfSigned"}}):
            with pytest.raises(ValueError, match="400001"):
                dps.hubs[A].put({"deviceId": "d1", **wrong})
