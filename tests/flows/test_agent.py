"""The REST agent as a test executive uses it: a process of its own, spoken to over HTTP."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from support.agentprocess import RunningAgent, running_agent
from support.serving import BIRTHMARK
from support.skinworld import TARGET, events, make_bench

SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
HEADS = ("left=files:out/{device_serial}", "right=files:out/{device_serial}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "bench")
    return tmp_path / "bench"


@pytest.fixture
def agent(place: Path) -> Iterator[RunningAgent]:
    with running_agent(place, heads=HEADS) as running:
        yield running


def tags(place: Path, device_serial: str) -> list[str]:
    return [event.__struct_config__.tag for event in events(place, device_serial)]


def test_a_run_from_the_request_to_the_record(place: Path, agent: RunningAgent) -> None:
    answer = agent.post("key-00000001", "TH-0001", head="left", handshake=True)
    run = answer.json()
    assert (answer.status_code, run["state"], run["result"]["tls_version"]) == (200, "passed", "TLSv1.3"), run
    assert answer.headers["location"] == f"/v1/runs/{run['id']}"
    assert [step["step"] for step in run["steps"]][-1] == "record"
    assert agent.client.get(answer.headers["location"]).json() == run
    device = agent.client.get("/v1/serials/TH-0001").json()
    assert (device["state"], device["attempt"], device["under_way"]) == ("verified", run["attempt"], None)
    assert device["cert_sha256"] == run["result"]["cert_sha256"]
    assert agent.post("key-00000001", "TH-0001", head="left", handshake=True).json() == run
    again = agent.post("key-00000002", "TH-0001", head="right").json()
    assert (again["state"], again["result"]["outcome"]) == ("passed", "already")
    assert tags(place, "TH-0001").count("verified") == 1


def test_a_key_stands_for_one_request(agent: RunningAgent) -> None:
    assert agent.post("key-00000001", "TH-0001", head="left").json()["state"] == "passed"
    for other in ({"device_serial": "TH-0002", "head": "left"}, {"device_serial": "TH-0001", "head": "right"}):
        answer = agent.client.post("/v1/runs", json=other, headers={"Idempotency-Key": "key-00000001"})
        assert (answer.status_code, answer.json()["error"]) == (409, "agent.key_reused")


def test_the_same_request_many_times_at_once_is_one_run(place: Path, agent: RunningAgent) -> None:
    answers: list[dict[str, object]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(agent.post("key-00000009", "TH-0009", head="left").json()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {(str(answer["id"]), str(answer["state"])) for answer in answers} == {(answers[0]["id"], "passed")}
    assert tags(place, "TH-0009").count("drawn") == 1


def test_a_bad_device_fails_for_ever_and_a_bad_station_decides_nothing(place: Path, agent: RunningAgent) -> None:
    (place / "out/TH-0003/device-id").write_text("TH-0004\n")
    failed = agent.post("key-00000003", "TH-0003", head="left").json()
    assert (failed["state"], failed["error"]["error"]) == ("failed", "device.identity.mismatch")
    (place / "out/TH-0003/device-id").unlink()
    assert agent.post("key-00000003", "TH-0003", head="left").json() == failed
    assert agent.post("key-00000033", "TH-0003", head="left").json()["state"] == "passed"
    (place / "out/TH-0005").rename(place / "out/away")
    undecided = agent.post("key-00000005", "TH-0005", head="left").json()
    assert (undecided["state"], undecided["error"]["error"]) == ("undecided", "target.directory.missing")
    (place / "out/away").rename(place / "out/TH-0005")
    again = agent.post("key-00000005", "TH-0005", head="left").json()
    assert (again["state"], again["id"]) == ("passed", undecided["id"])


def test_a_wrong_request_is_told_and_nothing_is_kept(agent: RunningAgent) -> None:
    key = {"Idempotency-Key": "key-12345678"}
    good = {"device_serial": "TH-0001", "head": "left"}
    tries: list[tuple[dict[str, str], dict[str, str], int, str]] = [
        (good, {}, 400, "agent.key"),
        (good, {"Idempotency-Key": "short"}, 400, "agent.key"),
        ({"device_serial": "TH 1", "head": "left"}, key, 400, "service.request.malformed"),
        ({"device_serial": "TH-0001", "target": "files:x"}, key, 400, "service.request.malformed"),
        ({"device_serial": "TH-0001"}, key, 404, "agent.head_unknown"),
        ({"device_serial": "TH-0001", "head": "up"}, key, 404, "agent.head_unknown"),
        ({"device_serial": "T" * 5000}, key, 413, "service.request.too_long"),
    ]
    for body, headers, status, code in tries:
        answer = agent.client.post("/v1/runs", json=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
        assert answer.json()["hint"]
    assert agent.post("key-12345678", "TH-0001", head="left").json()["state"] == "passed"


def test_other_addresses_are_told_as_errors(agent: RunningAgent) -> None:
    for path, status, code in (
        ("/v1/runs/0000", 404, "agent.run_unknown"), ("/v1/serials/TH-9999", 404, "device.unknown"),
        ("/v1/serials/%21", 400, "device.serial.malformed"), ("/nothing", 404, "service.not_found"),
        ("/v1/runs", 405, "service.method"), ("/v1/runs/0000?wait=x", 400, "agent.wait"),
    ):  # fmt: skip
        answer = agent.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (status, code)


def test_killed_at_its_work_it_goes_on_with_the_same_attempt(place: Path) -> None:
    """The link to the device hangs, so that the agent is in the middle of an install when it is killed."""
    slow = place / "slow.py"
    slow.write_text(
        "import sys, time, pathlib\n"
        "from birthmark.adapters.targets.files import FilesTarget\n"
        "from birthmark.shell.cli.main import main\n"
        "install = FilesTarget.install\n"
        "def hanging(self, credential, fence):\n"
        "    pathlib.Path('hangs').touch()\n"
        "    time.sleep(60)\n"
        "    install(self, credential, fence)\n"
        "FilesTarget.install = hanging\n"
        "sys.exit(main(['agent', '-C', 'fab', '--port', '0', '--head', 'left=files:out/{device_serial}',\n"
        "               '--head', 'right=files:out/{device_serial}']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(slow)], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    url, token_file, _ = (process.stdout.readline().decode().split()[1] for _ in range(3))
    bearer = {"Authorization": f"Bearer {Path(token_file).read_text().strip()}"}

    def asked(key: str, device_serial: str, head: str) -> httpx.Response:
        body = {"device_serial": device_serial, "head": head}
        return httpx.post(f"{url}/v1/runs", json=body, headers={**bearer, "Idempotency-Key": key})

    begun = asked("key-00000006", "TH-0006", "left")
    assert (begun.status_code, begun.json()["state"]) == (202, "running")
    end = time.monotonic() + 20
    while not (place / "hangs").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    busy = asked("key-00000007", "TH-0007", "left")
    assert (busy.status_code, busy.json()["error"], busy.json()["retry_safe"]) == (503, "agent.head_busy", True)
    twice = asked("key-00000008", "TH-0006", "right")
    assert (twice.status_code, twice.json()["error"]) == (503, "agent.device_busy")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    with running_agent(place, heads=HEADS) as agent:
        cut = agent.client.get(f"/v1/runs/{begun.json()['id']}").json()
        assert (cut["state"], cut["attempt"], cut["error"]) == ("undecided", begun.json()["attempt"], None)
        assert agent.client.get("/v1/serials/TH-0006").json()["under_way"] == begun.json()["attempt"]
        done = agent.post("key-00000006", "TH-0006", head="left").json()
        assert (done["state"], done["id"], done["attempt"]) == ("passed", cut["id"], cut["attempt"])
    assert (tags(place, "TH-0006").count("drawn"), tags(place, "TH-0006").count("verified")) == (1, 1)
    with running_agent(place, heads=HEADS) as agent:
        assert agent.post("key-00000006", "TH-0006", head="left").json() == done


def test_readiness_says_how_much_and_how_long(agent: RunningAgent) -> None:
    assert agent.client.get("/healthz").json()["status"] == "ok"
    answer = agent.client.get("/readyz")
    ready = answer.json()
    assert (answer.status_code, ready["ready"], ready["mode"], ready["offline_identities"]) == (
        200,
        True,
        "authority",
        16,
    )
    until = datetime.fromisoformat(ready["offline_until"])
    assert abs((until - datetime.now(UTC)).total_seconds() - ready["offline_seconds"]) < 120
    (order,) = ready["orders"]
    assert (order["order"], order["stock"], order["open"]) == ("lot1", 16, 0)
    agent.post("key-00000001", "TH-0001", head="left")
    assert agent.client.get("/readyz").json()["offline_identities"] == 15


def test_who_may_not_is_told_so(place: Path, agent: RunningAgent) -> None:
    token_file = place / "fab/agent/token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((place / "fab/agent/runs.db").stat().st_mode) == 0o600
    key = {"Idempotency-Key": "key-12345678"}
    body = {"device_serial": "TH-0001", "head": "left"}
    stranger = httpx.Client(base_url=agent.url)
    bearer = {"Authorization": f"Bearer {agent.token}"}
    tries: list[tuple[dict[str, str], int, str]] = [
        ({}, 401, "agent.token"),
        ({"Authorization": "Bearer " + "0" * 64}, 401, "agent.token"),
        ({"Authorization": "Basic " + agent.token}, 401, "agent.token"),
        ({**bearer, "Host": "evil.example"}, 421, "agent.host"),
        ({**bearer, "Host": f"evil.example:{agent.url.rpartition(':')[2]}"}, 421, "agent.host"),
        ({**bearer, "Origin": "https://evil.example"}, 403, "agent.origin"),
        ({**bearer, "Origin": "null"}, 403, "agent.origin"),
        ({**bearer, "Sec-Fetch-Site": "cross-site"}, 403, "agent.origin"),
    ]
    for headers, status, code in tries:
        answer = stranger.post("/v1/runs", json=body, headers={**key, **headers})
        assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert "drawn" not in tags(place, "TH-0001")
    for path in ("/", "/v1/heads", "/v1/events", "/readyz", "/v1/serials/TH-0001"):
        assert stranger.get(path).status_code == 401
    assert stranger.get("/healthz").status_code == 200
    stranger.close()


def test_a_link_lets_one_browser_look_once_and_never_act(agent: RunningAgent) -> None:
    with httpx.Client(base_url=agent.url) as browser:
        opened = browser.get(agent.page)
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        page = browser.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert browser.get("/v1/heads").json()["station"] == "line1"
        body = {"device_serial": "TH-0001", "head": "left"}
        act = browser.post("/v1/runs", json=body, headers={"Idempotency-Key": "key-12345678"})
        assert (act.status_code, act.json()["error"]) == (401, "agent.token")
        assert browser.post("/v1/page-links").status_code == 401
    with httpx.Client(base_url=agent.url) as other:
        assert other.get(agent.page).json()["error"] == "agent.link"
        assert other.get("/open?code=").json()["error"] == "agent.link"
        link = agent.client.post("/v1/page-links").json()["url"]
        assert other.get(link).status_code == 303


def test_events_tell_every_change_of_a_head(agent: RunningAgent) -> None:
    with agent.client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()

        def heads() -> dict[str, dict[str, object]]:
            for line in lines:
                if line.startswith("data: "):
                    return {head["head"]: head for head in json.loads(line[6:])["heads"]}
            raise AssertionError("the stream ended")

        assert {head["state"] for head in heads().values()} == {"empty"}
        threading.Thread(target=lambda: agent.post("key-00000001", "TH-9999", head="right")).start()
        end = time.monotonic() + 20
        while (seen := heads()["right"])["state"] != "failed":
            assert time.monotonic() < end
        error = seen["error"]
        assert isinstance(error, dict)
        assert (error["error"], bool(error["hint"])) == ("device.unknown", True)
        assert agent.stop() == 0
        assert [line for line in lines if line.startswith("event: ") and "heads" not in line] == []


def test_an_orderly_end_says_nothing_of_secrets(place: Path) -> None:
    with running_agent(place, heads=HEADS) as agent:
        agent.post("key-00000001", "TH-0001", head="left")
        with httpx.Client(base_url=agent.url) as browser:
            browser.get(agent.page)
        assert agent.stop() == 0
        log = (place / "agent.log").read_text()
        assert {json.loads(line)["event"] for line in log.splitlines()} == {"request"}
        assert agent.token not in log
        assert "code=" not in log
        assert "key-00000001" not in log


def test_a_unix_socket_needs_the_token_as_well(place: Path) -> None:
    process = subprocess.Popen(
        [BIRTHMARK, "agent", "-C", "fab", "--head", TARGET, "--unix-socket", "agent.sock"],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(b"agent unix:")
        token = Path(process.stdout.readline().decode().split()[1]).read_text().strip()
        assert stat.S_IMODE((place / "agent.sock").stat().st_mode) == 0o600
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(place / "agent.sock")), base_url="http://agent"
        ) as client:
            assert client.get("/v1/heads").status_code == 401
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "key-00000001"}
            run = client.post("/v1/runs?wait=30", json={"device_serial": "TH-0001"}, headers=headers).json()
            assert (run["state"], run["head"]) == ("passed", "1")
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()
    assert not (place / "agent.sock").exists()


@pytest.mark.parametrize(
    ("heads", "error"),
    [
        (["left=files:out"], "agent.head"), (["left=x"], "agent.head"),
        (["left=files:{device_serial}", "left=files:{device_serial}"], "agent.head"),
    ],
)  # fmt: skip
def test_heads_are_checked_before_anything_is_opened(place: Path, heads: list[str], error: str) -> None:
    options = [part for head in heads for part in ("--head", head)]
    done = subprocess.run([BIRTHMARK, "agent", "-C", "fab", *options], cwd=place, capture_output=True, text=True)
    assert (done.returncode, error in done.stderr) == (2, True), done.stderr


def test_generated_requests_get_the_answers_that_are_described(agent: RunningAgent, tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [
            SCHEMATHESIS, "run", f"{agent.url}/openapi.json", "--checks", checks, "--max-examples", "10", "--seed", "1",
            "--phases", "examples,coverage,fuzzing", "--no-color", "--generation-database", "none",
            "-H", f"Authorization: Bearer {agent.token}", "--exclude-path", "/v1/events",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert agent.process.poll() is None
