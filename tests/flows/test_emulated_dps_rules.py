"""The rules of the emulated DPS: which enrolment wins, where a device goes again, what is too much."""

from __future__ import annotations

import random
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPSConnection, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest

from birthmark.testing.dps import DpsLimits, EmulatedDps, FaultPlan
from birthmark.testing.dps.store import Table
from support.dpsdevices import (
    VERSION,
    Authority,
    call,
    group_of,
    individual_of,
    new_root,
    register,
    text_of,
)
from support.dpsservice import signer, verify_ca

ARM = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Devices/provisioningServices/dps1/certificates"
HUBS = ("a.azure-devices.net", "b.azure-devices.net", "c.azure-devices.net")
ALL = {"query": "SELECT * FROM enrollments"}


class Clock:
    """A monotonic clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dps(clock: Clock) -> Iterator[EmulatedDps]:
    with EmulatedDps(mqtt_port=0, hubs=HUBS, assigning_s=0, monotonic=clock) as running:
        yield running


def state_of(answer: tuple[int, dict[str, Any], dict[str, str]]) -> dict[str, Any]:
    status, body, _ = answer
    assert status == 200, body
    return dict(body["registrationState"])


def refused(answer: tuple[int, dict[str, Any], dict[str, str]]) -> tuple[int, str]:
    status, body, headers = answer
    assert status == body["errorCode"] // 1000
    assert headers["x-ms-error-code"] == str(body["errorCode"])
    assert set(body) == {"errorCode", "trackingId", "message", "timestampUtc"}
    return body["errorCode"], body["message"]


def verify(dps: EmulatedDps, ca: Authority) -> str:
    return verify_ca(dps, ca.certificate, signer(ca.certificate, ca.key))


def test_a_device_comes_back_to_its_hub_or_moves_as_its_policy_says(dps: EmulatedDps, tmp_path: Path) -> None:
    root = new_root()
    unit = root.device(tmp_path, "unit")
    keep = {"updateHubAssignment": False, "migrateDeviceData": False}
    reset = {"updateHubAssignment": True, "migrateDeviceData": False}

    def again(hub: str, **policy: Any) -> tuple[str, str]:
        dps.enrollments.put(individual_of("unit", unit.certificate, iotHubs=[hub], **policy))
        state = state_of(register(dps, unit))
        return state["assignedHub"], state["substatus"]

    assert again(HUBS[0]) == (HUBS[0], "initialAssignment")
    assert again(HUBS[0]) == (HUBS[0], "reprovisionedToInitialAssignment")
    assert again(HUBS[1]) == (HUBS[1], "deviceDataMigrated")
    assert again(HUBS[2], reprovisionPolicy=reset) == (HUBS[2], "deviceDataReset")
    assert again(HUBS[0], reprovisionPolicy=keep) == (HUBS[2], "reprovisionedToInitialAssignment")
    dps.registrations.delete("unit")
    assert again(HUBS[0], reprovisionPolicy=keep) == (HUBS[0], "initialAssignment")


@pytest.mark.parametrize("strict", [False, True])
def test_the_group_of_the_nearest_ca_wins_and_a_disabled_one_blocks(clock: Clock, tmp_path: Path, strict: bool) -> None:
    root = new_root()
    upper = root.sub("ICA 1")
    lower = upper.sub("ICA 2")
    unit = lower.device(tmp_path, "unit")
    with EmulatedDps(mqtt_port=0, hubs=HUBS, assigning_s=0, monotonic=clock, verified_chains=strict) as dps:
        by_hand = verify(dps, root)

        def group() -> str:
            return str(state_of(register(dps, unit))["x509"]["enrollmentGroupId"])

        assert refused(register(dps, unit)) == (401002, "CA certificate not found.")
        reference = {"type": "x509", "x509": {"caReferences": {"primary": by_hand}}}
        assert call(dps, "PUT", "/enrollmentGroups/by-root", {"attestation": reference})[0] == 200
        assert group() == "by-root"
        dps.groups.put(group_of("by-upper", upper))
        assert group() == "by-upper"
        dps.groups.put(group_of("by-lower", lower))
        assert group() == "by-lower"
        dps.groups.put(group_of("by-lower", lower, provisioningStatus="disabled"))
        status, body, _ = register(dps, unit)
        assert (status, body["status"], body["registrationState"]["status"]) == (200, "disabled", "disabled")
        dps.groups.delete("by-lower")
        assert group() == "by-upper"
        dps.enrollments.put(individual_of("unit", unit.certificate, provisioningStatus="disabled"))
        assert register(dps, unit)[1]["status"] == "disabled"


def test_the_service_wants_the_whole_chain_up_to_a_ca_whose_possession_was_proven(clock: Clock, tmp_path: Path) -> None:
    root = new_root()
    upper = root.sub("ICA 1")
    lower = upper.sub("ICA 2")
    short, whole = lower.device(tmp_path, "short", chain=1), lower.device(tmp_path, "whole", chain=2)
    with EmulatedDps(mqtt_port=0, assigning_s=0, monotonic=clock) as dps:
        dps.groups.put(group_of("line", lower))
        assert refused(register(dps, whole)) == (401002, "CA certificate not found.")
        verify(dps, root)
        assert state_of(register(dps, whole))["x509"]["enrollmentGroupId"] == "line"
        assert refused(register(dps, short)) == (401002, "CA certificate not found.")
        verify(dps, upper)
        assert state_of(register(dps, short))["x509"]["enrollmentGroupId"] == "line"
        alone = new_root().device(tmp_path, "alone", chain=0)
        dps.enrollments.put(individual_of("alone", alone.certificate))
        assert state_of(register(dps, alone))["deviceId"] == "alone"
    with EmulatedDps(mqtt_port=0, assigning_s=0, verified_chains=False, monotonic=clock) as lenient:
        lenient.groups.put(group_of("line", lower))
        assert state_of(register(lenient, short))["x509"]["enrollmentGroupId"] == "line"


def test_a_roll_goes_over_the_secondary_certificate_of_a_device_and_of_a_group(
    dps: EmulatedDps, tmp_path: Path
) -> None:
    root, renewed = new_root(), new_root("Renewed root")
    verify(dps, root)
    verify(dps, renewed)
    old, new = root.device(tmp_path, "unit"), renewed.device(tmp_path, "unit")
    dps.enrollments.put(individual_of("unit", old.certificate))
    assert refused(register(dps, new)) == (401002, "Unauthorized")
    dps.enrollments.put(individual_of("unit", old.certificate, new.certificate))
    assert (register(dps, old)[0], register(dps, new)[0]) == (200, 200)
    shown = call(dps, "GET", "/enrollments/unit")[1]
    certificates = shown["attestation"]["x509"]["clientCertificates"]
    shown["attestation"]["x509"]["clientCertificates"] = {"primary": certificates["secondary"]}
    assert call(dps, "PUT", "/enrollments/unit", shown, If_Match=shown["etag"])[0] == 200
    assert (register(dps, old)[0], register(dps, new)[0]) == (401, 200)
    dps.enrollments.delete("unit")
    dps.groups.put(group_of("line", root))
    assert (register(dps, old)[0], register(dps, new)[0]) == (200, 401)
    dps.groups.put(group_of("line", root, renewed))
    assert (register(dps, old)[0], register(dps, new)[0]) == (200, 200)
    dps.groups.put(group_of("line", renewed))
    assert (register(dps, old)[0], register(dps, new)[0]) == (401, 200)


def test_devices_that_are_expired_foreign_or_misnamed_are_refused_by_code(dps: EmulatedDps, tmp_path: Path) -> None:
    root = new_root()
    verify(dps, root)
    dps.groups.put(group_of("line", root))
    ended, foreign = root.device(tmp_path, "ended", days=-1), new_root("Foreign root").device(tmp_path, "foreign")
    assert refused(register(dps, ended)) == (401002, "Invalid certificate")
    assert refused(register(dps, foreign)) == (401002, "CA certificate not found.")
    dps.enrollments.put(individual_of("ended", ended.certificate))
    assert refused(register(dps, ended)) == (401002, "Invalid certificate")
    unit = root.device(tmp_path, "unit")
    wrong = call(dps, "PUT", f"/{dps.id_scope}/registrations/other/register{VERSION}", {}, unit)
    assert refused(wrong) == (401002, "Unauthorized")
    scope = call(dps, "PUT", f"/0ne99999999/registrations/unit/register{VERSION}", {}, unit)
    assert refused(scope)[0] == 401002
    version = call(dps, "PUT", f"/{dps.id_scope}/registrations/unit/register?api-version=1999-01-01", {}, unit)
    assert refused(version)[0] == 400008
    asks = call(dps, "PUT", f"/{dps.id_scope}/registrations/unit/register{VERSION}", {"tpm": {}}, unit)
    assert refused(asks)[0] == 401000


def test_devices_are_spread_over_hubs_by_hash_alone_and_static_ones_stay(dps: EmulatedDps, tmp_path: Path) -> None:
    root = new_root()
    verify(dps, root)
    dps.groups.put(group_of("line", root))
    units = [root.device(tmp_path, f"unit-{number}") for number in range(12)]
    first = [state_of(register(dps, unit))["assignedHub"] for unit in units]
    assert set(first) == set(HUBS)
    assert [state_of(register(dps, unit))["assignedHub"] for unit in units] == first
    dps.groups.put(group_of("line", root, allocationPolicy="static", iotHubs=[HUBS[1]]))
    assert {state_of(register(dps, unit))["assignedHub"] for unit in units[:3]} == {HUBS[1]}
    for wrong in ({"iotHubs": ["elsewhere.azure-devices.net"]}, {"allocationPolicy": "custom"}):
        assert call(dps, "PUT", "/enrollmentGroups/other", group_of("other", root, **wrong))[0] == 400


def test_the_quotas_on_groups_and_cas_and_enrolments_are_kept(clock: Clock) -> None:
    root = new_root()
    limits = DpsLimits(operations_a_minute=10_000, enrollments=2)
    with EmulatedDps(mqtt_port=0, monotonic=clock, limits=limits) as dps:
        for number in range(100):
            dps.groups.put(group_of(f"g{number}", root))
        refusal = call(dps, "PUT", "/enrollmentGroups/one-more", group_of("one-more", root))
        assert refused(refusal)[0] == 400007
        assert "100 at most" in refusal[1]["message"]
        assert call(dps, "PUT", "/enrollmentGroups/g7", group_of("g7", root), If_Match="*")[0] == 200
        body = {"properties": {"certificate": text_of(root.certificate)}}
        assert {call(dps, "PUT", f"{ARM}/c{number}", body)[0] for number in range(25)} == {200}
        assert call(dps, "PUT", f"{ARM}/c25", body)[1]["errorCode"] == 400007
        listed = call(dps, "GET", ARM)[1]["value"]
        assert len(listed) == 25
        assert call(dps, "DELETE", f"{ARM}/c0")[0] == 412
        assert call(dps, "DELETE", f"{ARM}/c0", If_Match=listed[0]["etag"])[0] == 200
        assert call(dps, "PUT", f"{ARM}/c25", body)[0] == 200
        members = [individual_of(f"d{number}", root.certificate) for number in range(3)]
        full = call(dps, "POST", "/enrollments", {"mode": "create", "enrollments": members})[1]
        assert full == {"isSuccessful": False, "errors": [{"registrationId": "d2", "errorCode": 400007,
                        "errorStatus": "Quota exceeded: Enrollment, 2 at most."}]}  # fmt: skip


def test_limits_say_when_to_come_back_and_a_handed_in_clock_is_the_only_time(clock: Clock, tmp_path: Path) -> None:
    root = new_root()
    unit = root.device(tmp_path, "unit")
    limits = DpsLimits(operations_a_minute=6, registrations_a_minute=2, polls_in_10_s=3)
    with EmulatedDps(mqtt_port=0, monotonic=clock, limits=limits, assigning_s=30) as dps:
        dps.enrollments.put(individual_of("unit", unit.certificate))
        assert [call(dps, "POST", "/enrollments/query", ALL)[0] for _ in range(7)] == [200] * 6 + [429]
        status, body, headers = call(dps, "GET", "/enrollments/unit")
        assert (status, body["errorCode"], headers["retry-after"]) == (429, 429001, "10")
        clock.now += 9.5
        assert call(dps, "GET", "/enrollments/unit")[2]["retry-after"] == "1"
        clock.now += 0.5
        assert call(dps, "GET", "/enrollments/unit")[0] == 200
        status, body, headers = register(dps, unit)
        assert (status, body["status"], headers["retry-after"]) == (202, "assigning", "30")
        assert [register(dps, unit)[0], register(dps, unit)[0]] == [202, 429]
        poll = f"/{dps.id_scope}/registrations/unit/operations/{body['operationId']}{VERSION}"
        assert [call(dps, "GET", poll, None, unit)[0] for _ in range(4)] == [202, 202, 202, 429]
        clock.now += 30
        done = call(dps, "GET", poll, None, unit)
        assert (done[0], state_of(done)["status"]) == (200, "assigned")
        assert call(dps, "POST", f"/{dps.id_scope}/registrations/unit{VERSION}", {}, unit)[1]["deviceId"] == "unit"
        missing = poll.replace(body["operationId"], "4.none")
        assert call(dps, "GET", missing, None, unit)[1]["errorCode"] == 404202


def test_a_storm_of_429_a_lost_answer_and_half_a_bulk_call_come_as_ordered(dps: EmulatedDps, tmp_path: Path) -> None:
    leaf = new_root().device(tmp_path, "d0").certificate
    dps.faults.set(FaultPlan(seed=7, throttled=0.5))
    seen = [call(dps, "POST", "/enrollments/query", ALL) for _ in range(20)]
    assert {status for status, _, _ in seen} == {200, 429}
    assert {headers["retry-after"] for status, _, headers in seen if status == 429} == {"1"}
    dps.faults.set(FaultPlan(seed=7, throttled=0.5))
    assert [call(dps, "POST", "/enrollments/query", ALL)[0] for _ in range(20)] == [status for status, _, _ in seen]
    dps.faults.set(FaultPlan(lost=1.0))
    with pytest.raises(RemoteDisconnected):
        call(dps, "PUT", "/enrollments/d0", individual_of("d0", leaf))
    assert "d0" in dps.enrollments
    members = [individual_of(f"d{number}", leaf) for number in range(1, 11)]
    dps.faults.set(FaultPlan(seed=3, half_bulk=1.0))
    answer = call(dps, "POST", "/enrollments", {"mode": "create", "enrollments": members})[1]
    failed = [one["registrationId"] for one in answer["errors"]]
    assert {one["errorCode"] for one in answer["errors"]} == {500001}
    assert answer["isSuccessful"] is False
    assert 0 < len(failed) <= 10
    assert {row["registrationId"] for row in dps.enrollments.list()} == {f"d{n}" for n in range(11)} - set(failed)


def test_endorsement_keys_are_shown_on_request_alone_and_kept_when_a_document_goes_back(dps: EmulatedDps) -> None:
    key = b64encode(b"\x02" * 300).decode()
    body = {"attestation": {"type": "tpm", "tpm": {"endorsementKey": key}}}
    shown = call(dps, "PUT", "/enrollments/chip", body)[1]
    assert shown["attestation"] == {"type": "tpm", "tpm": {}}
    assert call(dps, "PUT", "/enrollments/chip", shown, If_Match=shown["etag"])[0] == 200
    mechanism = call(dps, "POST", "/enrollments/chip/attestationmechanism")[1]
    assert mechanism == {"type": "tpm", "tpm": {"endorsementKey": key}}
    for wrong in ({"endorsementKey": "not base64"}, {"endorsementKey": ""}, {}):
        refusal = call(dps, "PUT", "/enrollments/other", {"attestation": {"type": "tpm", "tpm": wrong}})
        assert refused(refusal)[0] == 400005


def test_registrations_are_read_listed_by_group_and_deleted(dps: EmulatedDps, tmp_path: Path) -> None:
    root = new_root()
    verify(dps, root)
    dps.groups.put(group_of("line", root))
    for number in range(5):
        assert register(dps, root.device(tmp_path, f"unit-{number}"))[0] == 200
    lone = new_root().device(tmp_path, "alone", chain=0)
    dps.enrollments.put(individual_of("alone", lone.certificate))
    assert register(dps, lone)[0] == 200
    assert len(dps.registrations) == 6
    first = call(dps, "POST", "/registrations/line/query", x_ms_max_item_count="3")
    assert [row["registrationId"] for row in first[1]] == ["unit-0", "unit-1", "unit-2"]
    assert (first[2]["x-ms-item-type"], first[2]["x-ms-max-item-count"]) == ("deviceRegistration", "3")
    rest = call(dps, "POST", "/registrations/line/query", x_ms_continuation=first[2]["x-ms-continuation"])
    assert [row["registrationId"] for row in rest[1]] == ["unit-3", "unit-4"]
    assert "x-ms-continuation" not in rest[2]
    state = call(dps, "GET", "/registrations/UNIT-0")[1]
    assert (state["registrationId"], state["status"]) == ("unit-0", "assigned")
    assert call(dps, "DELETE", "/registrations/unit-0", If_Match="stale")[0] == 412
    assert call(dps, "DELETE", "/registrations/unit-0", If_Match=state["etag"])[0] == 204
    assert refused(call(dps, "GET", "/registrations/unit-0"))[0] == 404201
    assert call(dps, "POST", "/registrations/unknown/query")[0] == 404


def test_records_change_behind_the_back_of_every_client_and_the_order_stays_right(dps: EmulatedDps) -> None:
    certificate = new_root().certificate
    for number in (5, 1, 9, 3):
        dps.enrollments.put(individual_of(f"d{number}", certificate))
    assert [row["registrationId"] for row in dps.enrollments.list()] == ["d1", "d3", "d5", "d9"]
    dps.enrollments.delete("d1")
    dps.enrollments.delete("D5")
    dps.enrollments.put(individual_of("d4", certificate, deviceId="unit-4"))
    dps.enrollments.put(individual_of("d1", certificate))
    names = [row["registrationId"] for row in call(dps, "POST", "/enrollments/query", ALL)[1]]
    assert names == ["d1", "d3", "d4", "d9"]
    assert dps.enrollments.get("d4")["deviceId"] == "unit-4"
    for name in ("d3", "d4", "d9"):
        dps.enrollments.delete(name)
    assert [row["registrationId"] for row in dps.enrollments.list()] == ["d1"]
    assert (len(dps.enrollments), "d1" in dps.enrollments, "d3" in dps.enrollments) == (1, True, False)
    for act in (dps.enrollments.get, dps.enrollments.delete):
        with pytest.raises(KeyError):
            act("d3")
    reference = {"type": "x509", "x509": {"caReferences": {"primary": "nobody"}}}
    with pytest.raises(ValueError, match="404201"):
        dps.groups.put({"enrollmentGroupId": "line", "attestation": reference})
    with pytest.raises(ValueError, match="400006"):
        dps.enrollments.put({"registrationId": "x", "attestation": {"type": "x509"}})


def test_a_client_that_is_cut_off_in_the_middle_leaves_no_half_record(dps: EmulatedDps) -> None:
    trust = ssl.create_default_context(cadata=dps.root_pem)
    plain = socket.create_connection((dps.host, dps.https_port), timeout=5)
    with trust.wrap_socket(plain, server_hostname=dps.host) as stream:
        token = dps.sas_token()
        head = f"PUT /enrollments/half HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Length: 900\r\n\r\n"
        stream.sendall(head.encode() + b'{"registrationId":"half","att')
    assert call(dps, "GET", "/enrollments/half")[0] == 404
    connection = HTTPSConnection(dps.host, dps.https_port, context=trust, timeout=10)
    for _ in range(3):  # one connection carries many calls
        connection.request("GET", "/enrollments/half", headers={"Authorization": dps.sas_token()})
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:1]) == (404, b"{")
    connection.close()


@pytest.mark.parametrize("seed", range(20))
def test_pages_are_what_sorting_everything_would_give_after_any_changes(seed: int) -> None:
    table: Table[str] = Table("Row", 1000, lambda row: row)
    chance, model = random.Random(seed), {}
    for _ in range(200):
        name = f"N{chance.randrange(60):02d}"
        if name.lower() in model and chance.random() < 0.5:
            table.delete(name)
            del model[name.lower()]
        else:
            table.put(name, name)
            model[name.lower()] = name
        if chance.random() < 0.3:
            after, count = f"n{chance.randrange(60):02d}", chance.randrange(1, 12)
            right = [model[one] for one in sorted(model) if one > after]
            follow = right[count - 1].lower() if len(right) > count else None
            assert table.page(after, count) == (right[:count], follow)
    assert len(table) == len(model)
