"""Web pages that are open on the machine of the emulated AWS IoT reach its port, and get nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from moto.core.config import default_user_config

from birthmark.testing.aws import EmulatedAws

PAGES = [
    {"Origin": "https://evil.example"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example:80"},
    {"Host": "localhost.evil.example"},
]
KNOWN = ["", "localhost:1", "127.0.0.1:1", "[::1]:1", "aws:1", "bucket.localhost:1", "host.docker.internal:1",
         "bucket.s3.amazonaws.com", "devices.example"]  # fmt: skip


@pytest.fixture(scope="module")
def aws() -> Iterator[EmulatedAws]:
    with EmulatedAws(account="310987654321", endpoint="devices.example") as running:
        yield running


def asked(aws: EmulatedAws, method: str, path: str, service: str, **headers: str) -> tuple[int, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", aws.port, timeout=20)
    signed = f"AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/{service}/aws4_request, Signature=0"
    connection.request(method, path, headers={"Authorization": signed, **headers})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_web_page_changes_and_reads_nothing(aws: EmulatedAws, page: dict[str, str]) -> None:
    for method, path, service in (
        ("POST", "/things/evil", "iot"),
        ("PUT", "/bucket", "s3"),
        ("GET", "/2015-03-31/functions", "lambda"),
        ("OPTIONS", "/2015-03-31/functions", ""),
        ("POST", "/moto-api/reset", ""),
    ):
        status, headers = asked(aws, method, path, service, **page)
        assert status == 403
        assert "access-control-allow-origin" not in headers
    assert asked(aws, "GET", "/things/evil", "iot")[0] == 404


@pytest.mark.parametrize("host", KNOWN)
def test_clients_come_by_any_name_that_is_nobodys(aws: EmulatedAws, host: str) -> None:
    assert asked(aws, "GET", "/things", "iot", Host=host)[0] == 200


def test_a_name_known_outside_is_taken_where_others_are_meant_to_come() -> None:
    with EmulatedAws(host="0.0.0.0", account="310987654322") as aws:  # noqa: S104  as in a container
        assert asked(aws, "GET", "/things", "iot", Host="aws.ci.example")[0] == 200
        assert asked(aws, "GET", "/things", "iot", Origin="https://evil.example")[0] == 403


def test_nobody_starts_programs_or_finds_the_switches_of_moto(aws: EmulatedAws) -> None:
    assert default_user_config["lambda"] == default_user_config["batch"] == {"use_docker": False}
    for path in ("/moto-api/config", "/moto-api/reset", "/moto-api/data.json"):
        assert asked(aws, "POST", path, "")[0] == 404
