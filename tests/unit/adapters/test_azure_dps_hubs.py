"""What a cloud of hubs is told in its URI, and what it makes of answers that no hub gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from birthmark.adapters.clouds.azure_dps import AzureDpsCloud
from birthmark.adapters.clouds.azure_dps.uri import parse_dps_uri
from birthmark.errors import BirthmarkError, Misconfigured, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports.cloud import Outcome, Registration

HOST, HUB = "azure-dps:dps1.azure-devices-provisioning.net", "my-hub.azure-devices.net"
KEY = "key=env:KEY"
SECRET = b"c2VjcmV0"
TOLD = Registration("unit-1", "blocked", (), ())
STATE = {"registrationId": "unit-1", "assignedHub": HUB, "deviceId": "unit-1", "status": "assigned"}
IDENTITY = {"deviceId": "unit-1", "etag": "MTIz", "status": "enabled", "statusReason": None}
GONE = httpx.Response(404, json={"Message": "ErrorCode:DeviceNotFound;Device unit-1 not registered"})
Answers = Callable[[httpx.Request], httpx.Response | None]


@pytest.mark.parametrize(
    "options",
    [
        f"hub.{HUB}=", f"hub.a b={KEY}", "hub.=env:K", f"hub.{HUB}=env:A&hub.{HUB.upper()}=env:B", "hub-policy=a",
        "hub-host=127.0.0.1:1", f"hub.{HUB}=env:A&hub-policy=a b", f"hub.{HUB}=env:A&hub-host=a/b",
        f"hub.{HUB}:443=env:A", f"hub.{HUB}=env:A&hub.{HUB}=env:A",
        "&".join(f"hub.h{number}.example=env:A" for number in range(51)),
    ],
)  # fmt: skip
def test_hubs_that_cannot_be_hubs_are_refused_at_once(options: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_dps_uri(f"{HOST}?{KEY}&{options}")
    assert caught.value.code == "cloud.uri"


def test_hubs_become_part_of_the_uri_and_their_references_of_no_name() -> None:
    hubs = {HUB.upper(): "file:/etc/a&b=c", "other.example": "entra"}
    whole = AzureDpsCloud.with_hubs(f"{HOST}?{KEY}", hubs)
    found = parse_dps_uri(whole)
    assert found.registries == ((HUB, "file:/etc/a&b=c"), ("other.example", "entra"))
    assert (found.name, found.hub_policy, found.hub_host) == (HOST, "registryReadWrite", None)
    assert AzureDpsCloud.with_hubs(f"{HOST}?{KEY}", {}) == f"{HOST}?{KEY}"
    assert parse_dps_uri(AzureDpsCloud.with_hubs(f"{HOST}?{KEY}&hubs=a.example", {"b.example": "env:B"})).hubs == (
        "a.example",
    )


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answers], tuple[AzureDpsCloud, list[httpx.Request]]]]:
    """Put a function in the place of service and hub: what it leaves open is answered as it should be."""
    clouds: list[AzureDpsCloud] = []

    def begin(answers: Answers) -> tuple[AzureDpsCloud, list[httpx.Request]]:
        seen: list[httpx.Request] = []

        def handle(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            seen.append(request)
            found = answers(request)
            return _raw(_usual(request) if found is None else found)

        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
        uri = AzureDpsCloud.with_hubs(f"{HOST}?{KEY}&mode=individual", {HUB: "env:HUB", "b.example": "env:B"})
        clouds.append(AzureDpsCloud(uri, secrets=lambda reference: Secret(SECRET), base=Path()))
        return clouds[-1], seen

    yield begin
    for cloud in clouds:
        cloud.close()


def _raw(answer: httpx.Response) -> httpx.Response:
    """A response whose body is read from a stream, as one that comes over a network."""
    return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))


def _usual(request: httpx.Request) -> httpx.Response:
    path = request.url.path
    if path == "/enrollments":
        return httpx.Response(200, json={"isSuccessful": True, "errors": []})
    if path.startswith("/registrations/"):
        return httpx.Response(200, json=STATE)
    if request.method == "GET":
        return httpx.Response(200, json=IDENTITY)
    return httpx.Response(200, json={**json.loads(request.content), "etag": "MTI0"})


def for_path(start: str, answer: httpx.Response, method: str = "GET") -> Answers:
    return lambda request: answer if request.url.path.startswith(start) and request.method == method else None


def test_each_hub_is_called_by_its_name_with_a_token_of_its_own(talk: Any) -> None:
    cloud, seen = talk(lambda request: None)
    assert [one.kind for one in cloud.tell([TOLD])] == ["done"]
    *_, read, write = seen
    assert {read.url.host, write.url.host} == {HUB}
    assert write.headers["if-match"] == '"MTIz"'
    assert read.headers["authorization"].startswith(f"SharedAccessSignature sr={HUB}&sig=")
    assert read.headers["authorization"].endswith("&skn=registryReadWrite")
    assert read.url.params["api-version"] == "2021-04-12"
    assert cloud.calls == len(seen) == 4


@pytest.mark.parametrize(
    ("start", "answer", "code"),
    [
        ("/registrations/", httpx.Response(200, text="<html>"), "cloud.answer"),
        ("/registrations/", httpx.Response(200, json={**STATE, "assignedHub": "a\nb"}), "cloud.answer"),
        ("/registrations/", httpx.Response(200, json={**STATE, "deviceId": "x" * 129}), "cloud.answer"),
        ("/devices/", httpx.Response(200, json={**IDENTITY, "deviceId": "unit-2"}), "cloud.answer"),
        ("/devices/", httpx.Response(200, json={**IDENTITY, "status": "asleep"}), "cloud.answer"),
        ("/devices/", httpx.Response(200, json={**IDENTITY, "etag": "a\r\nhost: b"}), "cloud.answer"),
        ("/devices/", httpx.Response(200, json=[IDENTITY]), "cloud.answer"),
        ("/devices/", httpx.Response(200, text="[" * 100_000), "cloud.answer"),
        ("/devices/", httpx.Response(404, text="<html>not here</html>"), "cloud.address"),
        ("/devices/", httpx.Response(404, json={"Message": "ErrorCode:IotHubNotFound;no hub"}), "cloud.address"),
        ("/devices/", httpx.Response(302, headers={"location": "https://elsewhere.example"}), "cloud.address"),
        ("/devices/", httpx.Response(401, json={"Message": "ErrorCode:Unauthorized;no"}), "cloud.credentials"),
        ("/devices/", httpx.Response(429, headers={"retry-after": "7"}), "cloud.throttled"),
        ("/devices/", httpx.Response(500), "cloud.busy"),
    ],
)  # fmt: skip
def test_what_no_hub_answers_ends_in_its_family_and_blocks_nobody(
    talk: Any, start: str, answer: httpx.Response, code: str
) -> None:
    cloud, seen = talk(for_path(start, answer))
    with pytest.raises(BirthmarkError) as caught:
        cloud.tell([TOLD])
    assert caught.value.code == code
    assert SECRET.decode() not in str(caught.value.document())
    assert not [one for one in seen if one.method == "PUT"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx.Response(200, json=IDENTITY), "cloud.answer"),
        (httpx.Response(412), "cloud.record.moved"),
        (httpx.Response(409), "cloud.record.moved"),
    ],
)
def test_a_write_that_did_not_come_through_is_no_outcome(talk: Any, answer: httpx.Response, code: str) -> None:
    cloud, _ = talk(for_path("/devices/", answer, "PUT"))
    with pytest.raises((Unavailable, Misconfigured)) as caught:
        cloud.tell([TOLD])
    assert caught.value.code == code


def test_a_device_that_is_gone_is_done_before_and_between(talk: Any) -> None:
    for method in ("GET", "PUT"):
        cloud, _ = talk(for_path("/devices/", GONE, method))
        assert cloud.tell([TOLD]) == [Outcome("unit-1", "done")]


def test_no_identity_is_touched_where_the_service_did_not_take_the_record(talk: Any) -> None:
    error = {"registrationId": "unit-1", "errorCode": 400004, "errorStatus": "no"}
    refusal = httpx.Response(200, json={"isSuccessful": False, "errors": [error]})
    cloud, seen = talk(for_path("/enrollments", refusal, "POST"))
    assert [one.code for one in cloud.tell([TOLD])] == ["cloud.record.refused"]
    assert len(seen) == 1
