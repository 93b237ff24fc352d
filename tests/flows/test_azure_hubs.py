"""A blocked device is blocked where it works, too: its identity in the IoT hub is disabled, whatever goes wrong."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.adapters.clouds.azure_dps import AzureDpsCloud, individual
from birthmark.adapters.clouds.azure_dps.hubs import OUR_REASON, Hubs
from birthmark.errors import Misconfigured, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports.cloud import Outcome, Registration
from birthmark.testing.dps import DpsLimits, EmulatedDps, FaultPlan
from support.clouds.azure_dps import DpsService
from support.clouds.fleet import Fleet
from support.dpsdevices import Device, register
from support.fences import PowerCut
from support.vendortools import run_tool

SUPPORT = Path(__file__).resolve().parents[1] / "support"
A, B = "a.azure-devices.net", "b.azure-devices.net"
Opened = Callable[..., AzureDpsCloud]
WORKS, SHUT = ("enabled", None), ("disabled", OUR_REASON)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[DpsService]:
    host = f"127.14.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"  # the client's port is fixed
    limits = DpsLimits(hub_calls_a_minute=100_000)
    with EmulatedDps(host=host, assigning_s=0, hubs=[A, B], limits=limits) as dps:
        yield DpsService(dps, tmp_path)


@pytest.fixture
def opened(fleet: Fleet) -> Iterator[Opened]:
    """Opens a cloud of a service: mode, hubs that it is told of (all, if none is said), options."""
    clouds: list[AzureDpsCloud] = []

    def open_cloud(service: DpsService, mode: str = "groups", *hubs: str, **options: str) -> AzureDpsCloud:
        clouds.append(service.open(told_hubs=hubs or (A, B), mode=mode, **options))
        clouds[-1].prepare([fleet.authority()], fleet.prove)
        return clouds[-1]

    yield open_cloud
    for cloud in clouds:
        cloud.close()


def device(fleet: Fleet, directory: Path, told: Registration) -> Device:
    """Write key and chain of a device."""
    place = directory / told.device_serial
    place.mkdir()
    pem = fleet.keys[told.device_serial].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(place / "key.pem", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(pem)
    chain = [x509.load_der_x509_certificate(der) for der in (told.certificates[0], *told.chain)]
    (place / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
    return Device(told.device_serial, chain[0], place)


def assigned(service: DpsService, fleet: Fleet, told: Registration) -> str:
    """Let a device register itself; return its hub."""
    body = register(service.dps, device(fleet, service.directory, told))[1]
    return str(body["registrationState"]["assignedHub"])


def blocked(told: Registration) -> Registration:
    return Registration(told.device_serial, "blocked", told.certificates, told.chain)


def standing(service: DpsService, hub: str, name: str) -> tuple[str, str | None]:
    held = service.dps.hubs[hub].get(name)
    return held["status"], held["statusReason"]


def kinds(outcomes: Any) -> list[str]:
    return [one.kind for one in outcomes]


def look(service: DpsService, hub: str, *devices: str) -> dict[str, Any]:
    """Read identities through Microsoft's service client."""
    root = service.directory / "dps-root.pem"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUB_CONNECTION", service.dps.hubs[hub].connection_string)
        told = run_tool("azure", "python", SUPPORT / "azurehub.py", root, "look", *devices)
    return dict(json.loads(told.splitlines()[-1]))


def test_microsofts_clients_see_a_stolen_device_shut_out_of_service_and_hub(
    service: DpsService, fleet: Fleet, opened: Opened, tmp_path: Path
) -> None:
    cloud = opened(service, "groups", allocation="static", hubs=A)
    good, stolen, unborn = (fleet.registration(f"unit-{name}") for name in ("good", "stolen", "unborn"))
    arguments = []
    for one in (good, stolen):
        made = device(fleet, tmp_path, one)
        arguments.append(f"{one.device_serial}={made.directory / 'chain.pem'}={made.directory / 'key.pem'}")
    base = (service.dps.host, service.dps.id_scope, service.directory / "dps-root.pem")
    told = run_tool("azure", "python", SUPPORT / "azuredevices.py", *base, *arguments)
    assert told.count('"status": "assigned"') == 2
    assert kinds(cloud.tell([good, blocked(stolen), blocked(unborn)])) == ["covered", "done", "done"]
    before = cloud.calls
    assert (kinds(cloud.tell([good])), cloud.calls_of([good]), cloud.calls - before) == (["covered"], 0, 0)
    told = run_tool("azure", "python", SUPPORT / "azuredevices.py", *base, arguments[1])
    assert "disabled" in told
    seen = look(service, A, "unit-good", "unit-stolen", "unit-unborn")
    assert (seen["unit-good"]["status"], seen["unit-good"]["reason"]) == WORKS
    assert (seen["unit-stolen"]["status"], seen["unit-stolen"]["reason"]) == SHUT
    assert seen["unit-stolen"]["thumbprint"]
    assert seen["unit-unborn"] == [404, "DeviceNotFound"]
    assert kinds(cloud.tell([blocked(stolen)])) == ["same"]
    assert kinds(cloud.tell([stolen])) == ["done"]
    assert look(service, A, "unit-stolen")["unit-stolen"]["status"] == "enabled"


@pytest.mark.parametrize("mode", ["groups", "individual"])
def test_blocked_and_let_in_again_it_is_so_in_both_places_and_what_others_wrote_stays(
    service: DpsService, fleet: Fleet, opened: Opened, mode: str
) -> None:
    cloud, told = opened(service, mode), fleet.registration("unit-1")
    cloud.tell([told])
    hub = service.dps.hubs[assigned(service, fleet, told)]
    scope = {"deviceScope": "ms-azure-iot-edge://parent-1", "parentScopes": ["ms-azure-iot-edge://parent-1"]}
    before = hub.put({**hub.get("unit-1"), **scope})
    (outcome,) = cloud.tell([blocked(told)])
    assert (outcome.kind, outcome.detail) == ("done", f"disabled in {hub.name}")
    after = hub.get("unit-1")
    assert (after["status"], after["statusReason"]) == SHUT
    for member in ("authentication", "capabilities", "deviceScope", "parentScopes", "generationId"):
        assert after[member] == before[member]
    assert kinds(cloud.tell([blocked(told)])) == ["same"]
    fresh = opened(service, mode)
    assert kinds(fresh.tell([told])) == ["done"]
    assert standing(service, hub.name, "unit-1") == WORKS
    hub.put({**hub.get("unit-1"), "status": "disabled", "statusReason": "unpaid"})
    fresh.tell([blocked(told)])
    fresh.tell([told])
    assert standing(service, hub.name, "unit-1") == ("disabled", "unpaid"), "not for us to undo"


def test_where_nobody_let_us_in_the_device_is_parked_with_the_name_of_the_hub(
    service: DpsService, fleet: Fleet, opened: Opened
) -> None:
    told = fleet.registration("unit-1")
    first = opened(service, "groups", A, allocation="static", hubs=B)
    assert assigned(service, fleet, told) == B
    (outcome,) = first.tell([blocked(told)])
    assert (outcome.kind, outcome.code) == ("refused", "cloud.hub.unknown")
    assert B in outcome.detail
    assert "name that hub in hubs" in outcome.detail
    assert service.dps.enrollments.get("unit-1")["provisioningStatus"] == "disabled", (
        "it is blocked at DPS all the same"
    )
    (record,) = first.page("").records
    assert (record.standing, record.place.partition(" ")[0]) == ("enabled", B)
    second = opened(service, "groups", A, B, allocation="static", hubs=B)
    assert kinds(second.tell([blocked(told)])) == ["done"]
    assert standing(service, B, "unit-1") == SHUT


def test_a_device_whose_registration_is_gone_or_whose_name_was_written_otherwise_is_found(
    service: DpsService, fleet: Fleet, opened: Opened
) -> None:
    cloud = opened(service)
    told, other = fleet.registration("unit-1"), fleet.registration("unit-2")
    hub = assigned(service, fleet, told)
    service.dps.registrations.delete("unit-1")
    made = device(fleet, service.directory, other)
    register(service.dps, Device("UNIT-2", made.certificate, made.directory))  # case does not count to the service
    assert kinds(cloud.tell([blocked(told), blocked(other)])) == ["done", "done"]
    assert standing(service, hub, "unit-1") == SHUT
    found = [one for hub in service.dps.hubs.values() for one in hub.list() if one["deviceId"].lower() == "unit-2"]
    assert [(one["deviceId"], one["status"]) for one in found] == [("UNIT-2", "disabled")]


@pytest.mark.parametrize("mode", ["groups", "individual"])
def test_a_power_cut_between_service_and_hub_is_made_good_by_the_same_again(
    service: DpsService, fleet: Fleet, opened: Opened, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*arguments: object, **options: object) -> Any:
        raise PowerCut

    told = fleet.registration("unit-1")
    cloud = opened(service, mode)
    cloud.tell([told])
    hub = assigned(service, fleet, told)
    with monkeypatch.context() as patch:
        patch.setattr(Hubs, "block", cut)
        with pytest.raises(PowerCut):
            cloud.tell([blocked(told)])
    assert service.dps.enrollments.get("unit-1")["provisioningStatus"] == "disabled"
    assert standing(service, hub, "unit-1") == WORKS
    cloud = opened(service, mode)
    assert kinds(cloud.tell([blocked(told)])) == ["done"]
    assert standing(service, hub, "unit-1") == SHUT
    fresh, bulk = opened(service, mode), individual.Enrollments._bulk

    def cut_writes(self: individual.Enrollments, which: str, members: list[dict[str, Any]]) -> Any:
        return cut() if which in ("delete", "updateIfMatchETag") else bulk(self, which, members)

    with monkeypatch.context() as patch:
        patch.setattr(individual.Enrollments, "_bulk", cut_writes)
        with pytest.raises(PowerCut):
            fresh.tell([told])
    assert standing(service, hub, "unit-1") == WORKS, "the hub comes first"
    assert service.dps.enrollments.get("unit-1")["provisioningStatus"] == "disabled"
    assert kinds(opened(service, mode).tell([told])) == ["done"]
    assert standing(service, hub, "unit-1") == WORKS
    assert "unit-1" not in service.dps.enrollments or (
        service.dps.enrollments.get("unit-1")["provisioningStatus"] == "enabled"
    )


def again(work: Callable[[], list[Outcome]], most: int = 200) -> tuple[list[Outcome], int]:
    """Do it until nothing is unavailable any more; return the outcomes and how often it was."""
    for number in range(most):
        try:
            return list(work()), number
        except Unavailable:
            continue
    raise AssertionError("no end of it")


def test_lost_answers_and_throttled_calls_end_the_same(service: DpsService, fleet: Fleet, opened: Opened) -> None:
    told = [fleet.registration(f"unit-{number}") for number in range(6)]
    cloud = opened(service)
    places = {one.device_serial: assigned(service, fleet, one) for one in told}
    failures = 0
    for standing_told, expected in ((list(map(blocked, told)), SHUT), (told, WORKS)):
        service.dps.faults.set(FaultPlan(seed=5, lost=0.06, throttled=0.06))
        _, count = again(lambda these=standing_told: list(cloud.tell(these)))  # type: ignore[misc]
        service.dps.faults.set(FaultPlan())
        failures += count
        assert {standing(service, hub, name) for name, hub in places.items()} == {expected}
    assert failures > 3
    assert len(service.dps.enrollments) == 0


def test_a_hub_that_takes_few_calls_says_when_and_every_turn_comes_further(
    fleet: Fleet, opened: Opened, tmp_path: Path
) -> None:
    now = [0.0]
    with EmulatedDps(
        mqtt_port=0, hubs=[A], assigning_s=0, limits=DpsLimits(hub_calls_a_minute=8), monotonic=lambda: now[0]
    ) as dps:
        service = DpsService(dps, tmp_path)
        told = [fleet.registration(f"unit-{number}") for number in range(6)]
        cloud = opened(service, "groups", A)
        for one in told:
            assigned(service, fleet, one)
        shut, problems = [0], list[Unavailable]()
        while shut[-1] < 6 and len(shut) < 30:
            try:
                cloud.tell([blocked(one) for one in told])
            except Unavailable as problem:
                problems.append(problem)
                now[0] += 60
            shut.append(sum(one["status"] == "disabled" for one in dps.hubs[A].list()))
        assert sorted(shut) == shut
        assert problems
        assert {one.code for one in problems} == {"cloud.throttled"}
        assert all(0 < int(str(one.facts["retry_after"])) <= 8 for one in problems)
        assert {one["status"] for one in dps.hubs[A].list()} == {"disabled"}


def test_an_identity_that_somebody_changes_at_that_moment_is_told_again(
    service: DpsService, fleet: Fleet, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, told = opened(service), fleet.registration("unit-1")
    hub = service.dps.hubs[assigned(service, fleet, told)]
    send, changed = httpx.HTTPTransport.handle_request, []

    def meddled(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT" and "/devices/" in request.url.path and not changed:
            changed.append(hub.put({**hub.get("unit-1"), "capabilities": {"iotEdge": True}}))
        return send(transport, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", meddled)
    with pytest.raises(Unavailable) as caught:
        cloud.tell([blocked(told)])
    assert (caught.value.code, caught.value.facts["hub"]) == ("cloud.record.moved", hub.name)
    assert kinds(cloud.tell([blocked(told)])) == ["done"]
    held = hub.get("unit-1")
    assert (held["status"], held["capabilities"]) == ("disabled", {"iotEdge": True})


def test_a_hub_that_does_not_let_us_in_is_found_before_anything_is_told(
    service: DpsService, fleet: Fleet, opened: Opened
) -> None:
    wrong, known = base64.b64encode(b"another key").decode(), service.secret
    service.secret = lambda name: Secret(wrong.encode()) if name == f"test:{B}" else known(name)  # type: ignore[method-assign]
    with pytest.raises(Misconfigured) as caught:
        opened(service)
    assert (caught.value.code, caught.value.facts["status"]) == ("cloud.credentials", 401)
    assert B in str(caught.value.facts["cloud"])
    assert wrong not in str(caught.value.document())


def test_a_page_has_few_blocked_devices_and_none_is_left_out(
    service: DpsService, fleet: Fleet, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(individual, "PAGE", 30)
    cloud = opened(service, "individual")
    told = [fleet.registration(f"unit-{number:02}") for number in range(3)]
    places = [assigned(service, fleet, one) for one in told if cloud.tell([one])]
    nameless = [Registration(f"unit-{number:02}", "blocked", (), ()) for number in range(3, 70)]
    for at in range(0, len(nameless), 10):
        cloud.tell(nameless[at : at + 10])
    cloud.tell([blocked(one) for one in told])
    hub = service.dps.hubs[places[1]]
    hub.put({**hub.get("unit-01"), "status": "enabled"})
    seen, after = {}, ""
    for _ in range(20):
        page = cloud.page(after)
        assert len(page.records) <= 10
        assert page.calls <= 1 + 10 * 5
        seen |= {one.name: (one.standing, one.place) for one in page.records}
        if page.after is None:
            break
        after = page.after
    assert len(seen) == 70
    assert {name: told for name, told in seen.items() if told != ("blocked", "")} == {"unit-01": ("enabled", hub.name)}
