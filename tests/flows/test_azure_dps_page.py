"""docs/clouds/azure-dps.md shows what the adapter sends, and what it sends has the members that the API describes."""

from __future__ import annotations

import json
import re
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from birthmark.adapters.clouds.azure_dps import AzureDpsCloud
from birthmark.adapters.clouds.azure_dps.uri import _OPTIONS, parse_dps_uri
from birthmark.model.secret import Secret
from birthmark.ports.cloud import Registration
from birthmark.shell.workspace.config import CloudSettings
from birthmark.testing.dps import EmulatedDps
from support.clouds.azure_dps import DpsService
from support.clouds.fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clouds" / "azure-dps.md").read_text()
Sent = tuple[str, str, Any]

_SHARED = {"attestation", "capabilities", "iotHubHostName", "initialTwin", "etag", "provisioningStatus"} | {
    "reprovisionPolicy", "allocationPolicy", "iotHubs", "customAllocationDefinition"
}  # fmt: skip
MEMBERS: dict[str, set[str]] = {
    "enrollment": _SHARED | {"registrationId", "deviceId", "optionalDeviceInformation"},
    "group": _SHARED | {"enrollmentGroupId"},
    "attestation": {"type", "tpm", "x509", "symmetricKey"},
    "x509": {"clientCertificates", "signingCertificates", "caReferences"},
    "slots": {"primary", "secondary"},
    "certificate": {"certificate", "info"},
    "symmetricKey": {"primaryKey", "secondaryKey"},
    "reprovisionPolicy": {"updateHubAssignment", "migrateDeviceData"},
    "device": {"deviceId", "status", "statusReason", "authentication", "capabilities", "deviceScope", "parentScopes"},
}
"""Members of the models in the public descriptions of the service API, 2021-10-01, and of a hub's, 2021-04-12."""


def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Do everything that the adapter does, and return what it sent."""
    sent: list[Sent] = []
    send = httpx.HTTPTransport.handle_request
    fleet = Fleet()

    def recorded(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        assert request.url.params["api-version"] == _version(request.url.path)
        body = json.loads(request.content) if request.content else None
        sent.append((request.method, request.url.path, _plain(body, fleet)))
        return send(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", recorded)
    with EmulatedDps(mqtt_port=0, hubs=["my-hub.azure-devices.net"]) as dps:
        service = DpsService(dps, tmp_path)
        groups, alone = service.open(ca="upload", verified="elsewhere"), service.open(mode="individual")
        groups.prepare([fleet.authority()], fleet.prove)
        third = fleet.registration("TH-3")
        groups.tell([Registration("TH-3", "blocked", third.certificates, third.chain)])
        groups.tell([third])
        rolled, unknown = fleet.registration("TH-1", certificates=2), Registration("TH-2", "blocked", (), ())
        alone.tell([rolled, unknown])
        alone.tell([Registration("TH-1", "enabled", rolled.certificates[:1], rolled.chain), unknown])
        alone.page("")
        references = service.open()
        service.ask("DELETE", "/enrollmentGroups/issuing")
        for authority in (fleet.authority(), fleet.authority(renewed=True)):
            references.prepare([authority], fleet.prove)
        (hub,) = dps.hubs.values()
        hub.put({"deviceId": "TH-4", "authentication": {"type": "certificateAuthority"}})
        blocking = service.open(told_hubs=[hub.name], mode="individual")
        blocking.prepare([], fleet.prove)
        blocking.tell([Registration("TH-4", "blocked", (), ())])
        for cloud in (groups, alone, references, blocking):
            cloud.close()
    digest = sha256(fleet.authority().certificates[0]).hexdigest()[:16]
    return [(method, path.replace(digest, "DIGEST"), body) for method, path, body in sent]


def _version(path: str) -> str:
    if path.startswith(("/devices/", "/statistics/")):
        return "2021-04-12"
    return "2022-12-12" if "/subs" in path else "2021-10-01"


def _plain(value: Any, fleet: Fleet) -> Any:
    if isinstance(value, dict):
        return {name: _plain(member, fleet) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member, fleet) for member in value]
    if isinstance(value, str) and value.startswith("-----BEGIN CERTIFICATE-----\n"):
        return "PEM"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9+/=]{300,}", value):
        return "BASE64"
    digest = sha256(fleet.authority().certificates[0]).hexdigest()[:16]
    return value.replace(digest, "DIGEST") if isinstance(value, str) else value


def test_every_example_on_the_page_is_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = story(tmp_path, monkeypatch)
    examples = re.findall(r"^```http\n(\S+) (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 8
    for method, path, body in examples:
        assert (method, path, json.loads(body) if body else None) in sent
    shown = {(method, path) for method, path, _ in examples}
    asked = {(method, path) for method, path, _ in sent if "DIGEST" in path or "/subs" not in path}
    assert {one for one in asked - shown if not one[1].startswith("/subs")} <= {
        ("GET", "/enrollments/th-2"), ("GET", "/enrollmentGroups/issuing")
    }  # fmt: skip


def test_bodies_have_the_members_that_the_api_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    for method, path, body in story(tmp_path, monkeypatch):
        if body is None or "query" in body or "/subs" in path:
            continue
        if path.startswith("/devices/"):
            assert set(body) <= MEMBERS["device"]
            continue
        if method == "POST":
            assert set(body) == {"mode", "enrollments"}
            assert body["mode"] in ("create", "update", "updateIfMatchETag", "delete")
            assert 1 <= len(body["enrollments"]) <= 10
        for one in body.get("enrollments", [body]):
            seen += 1
            kind = "group" if "enrollmentGroupId" in one else "enrollment"
            assert set(one) <= MEMBERS[kind]
            assert {"attestation", "enrollmentGroupId" if kind == "group" else "registrationId"} <= set(one)
            assert set(one["reprovisionPolicy"]) == MEMBERS["reprovisionPolicy"]
            assert_attestation(one["attestation"])
    assert seen >= 6


def assert_attestation(attestation: dict[str, Any]) -> None:
    assert set(attestation) == {"type", attestation["type"]}
    assert set(attestation) <= MEMBERS["attestation"]
    if attestation["type"] == "symmetricKey":
        assert set(attestation["symmetricKey"]) <= MEMBERS["symmetricKey"]
        return
    ((name, slots),) = attestation["x509"].items()
    assert name in MEMBERS["x509"]
    assert "primary" in slots
    assert set(slots) <= MEMBERS["slots"]
    assert all(
        isinstance(one, str) if name == "caReferences" else set(one) == {"certificate"} for one in slots.values()
    )


def test_every_option_and_every_error_of_the_adapter_stands_on_the_page() -> None:
    source = ROOT / "src" / "birthmark" / "adapters" / "clouds" / "azure_dps"
    text = "".join(path.read_text() for path in source.glob("*.py") if path.name not in ("device.py", "http.py"))
    codes = set(re.findall(r'"(cloud\.[a-z_.]+)"', text))
    assert len(codes) > 15
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()
    assert {option for option in _OPTIONS if f"`{option}`" not in PAGE} == set()


def test_the_settings_on_the_page_are_settings_of_a_cloud_that_opens() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    opened = []
    for block in blocks:
        (told,) = tomllib.loads(block.replace("…", "x1"))["clouds"].values()
        settings = msgspec.convert(told, CloudSettings)
        uri = AzureDpsCloud.with_hubs(settings.uri, settings.hubs)
        opened.append(parse_dps_uri(uri).registries)
        AzureDpsCloud(uri, secrets=lambda reference: Secret(b"a2V5"), base=ROOT).close()
    assert opened == [(), (("my-hub.azure-devices.net", "env:HUB_KEY"), ("other-hub.azure-devices.net", "entra"))]
