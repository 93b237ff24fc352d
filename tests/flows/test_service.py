"""The service and a station that asks it online: the whole way, over real TLS, with the real commands."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.handout import stored_certificate
from support.serviceworld import BORN, POOLED, STATION, Running, World, build_world, device_csr
from support.serving import BIRTHMARK


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("service") / "world")


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    return built.copy(tmp_path / "world")


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    with world.running() as running:
        yield running


def asked(device_serial: str, attempt: str = "attempt-0001", csr: bytes | None = None) -> dict[str, object]:
    body: dict[str, object] = {"attempt": attempt, "device_serial": device_serial}
    return body if csr is None else {**body, "csr": base64.b64encode(csr).decode()}


def run(*command: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run([BIRTHMARK, *command], cwd=cwd, capture_output=True, timeout=120, check=False, text=True)
    assert done.returncode == code, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_csr_becomes_a_certificate_that_is_on_record(world: World, running: Running) -> None:
    with world.client(running.url, "line1") as client:
        got = client.post("/v1/credentials", json=asked(BORN[0], csr=device_csr(BORN[0])))
    assert got.status_code == 200, got.text
    certificate = base64.b64decode(got.json()["certificate"])
    assert BORN[0] in x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    assert running.stop() == 0
    with open_workspace(world.hq) as hq:
        device = hq.records.device(BORN[0])
        assert (str(device.state), device.attempt) == ("issued", "attempt-0001")
        assert hq.records.attempt("attempt-0001").device_serial == BORN[0]


def test_stations_provision_both_kinds_of_keys_online(world: World, running: Running) -> None:
    world.point_site_to(running.url)
    for device, query in ((BORN[1], "?key=born"), (POOLED[1], "")):
        (world.root / device).mkdir()
        target = ("--device-serial", device, "--target", f"files:{device}{query}")
        said = run("station", "provision", *target, "-C", "site", cwd=world.root)
        assert "PASS" in said
    run("ledger", "replay", "-C", "site", cwd=world.root)
    assert running.stop() == 0
    run("ledger", "replay", "-C", "hq", cwd=world.root)
    with open_workspace(world.hq) as hq, open_workspace(world.site) as site:
        assert str(hq.records.device(POOLED[1]).state) == "drawn"
        assert str(site.records.device(POOLED[1]).state) == "verified"
        (event,) = [entry for entry in hq.ledger.entries(0, 10**6) if b'"type":"drawn"' in entry[1]]
        assert f'"station":"{STATION}"'.encode() in event[1]


def test_same_attempt_from_many_at_once_gets_one_answer(world: World, running: Running) -> None:
    body = asked(BORN[0], csr=device_csr(BORN[0]))

    def post(_: int) -> object:
        with world.client(running.url, "line1") as client:
            return client.post("/v1/credentials", json=body).json()

    with ThreadPoolExecutor(12) as pool:
        first, *others = pool.map(post, range(12))
    assert all(other == first for other in others)


def test_two_attempts_for_one_device_at_once_get_one_identity(world: World, running: Running) -> None:
    def post(number: int) -> int:
        body = asked(BORN[number % 3], f"attempt-{number:04d}", csr=device_csr(BORN[number % 3]))
        with world.client(running.url, "line1") as client:
            return client.post("/v1/credentials", json=body).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(post, range(12)))
    assert sorted(statuses) == [200] * 3 + [409] * 9
    assert running.stop() == 0
    with open_workspace(world.hq) as hq:
        assert [str(hq.records.device(device).state) for device in BORN[:3]] == ["issued"] * 3


def test_orderly_end_answers_everything_that_was_taken(world: World, running: Running) -> None:
    answers: list[httpx.Response | BaseException] = []

    def work(number: int) -> None:
        with world.client(running.url, "line1") as client:
            for turn in range(100):
                device = BORN[10 + number * 20 + turn % 20]
                try:
                    body = asked(device, f"attempt-{device}", csr=csrs[device])
                    answers.append(client.post("/v1/credentials", json=body))
                except httpx.TransportError as problem:
                    answers.append(problem)
                    return

    csrs = {device: device_csr(device) for device in BORN[10:150]}
    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(work, number) for number in range(6)]
        while len(answers) < 30:
            pass
        assert running.stop() == 0
        for done in working:
            done.result()
    given = [answer.json() for answer in answers if isinstance(answer, httpx.Response) and answer.status_code == 200]
    with open_workspace(world.hq) as hq:
        assert hq.ledger.head().size == hq.ledger.head().published, "the head covers all"
        for answer in given:
            device = hq.records.device(answer["device_serial"])
            assert stored_certificate(hq.ledger, device) == base64.b64decode(answer["certificate"])


def test_full_queue_turns_requests_away_with_the_time_to_come_again(world: World) -> None:
    settings = world.hq / "birthmark.toml"
    settings.write_text(settings.read_text() + "queue = 1\n")
    with world.running() as running:

        def post(device: str) -> httpx.Response:
            with world.client(running.url, "line1") as client:
                body = asked(device, f"attempt-{device}", csr=device_csr(device))
                while (answer := client.post("/v1/credentials", json=body)).status_code == 429:
                    turned_away.append(answer)
                return answer

        turned_away: list[httpx.Response] = []
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(post, BORN[:24]))
    assert {answer.status_code for answer in answers} == {200}
    assert turned_away
    assert all(answer.headers["retry-after"] == "1" for answer in turned_away)
    assert all(answer.json()["error"] == "service.busy" for answer in turned_away)


def test_port_that_is_taken_is_told(world: World, running: Running) -> None:
    said = run("serve", "-C", "hq", "--port", str(running.port), cwd=world.root, code=5)
    assert "serve.listen" in said


def test_service_whose_log_cannot_be_shown_ends_and_loses_nothing(world: World, running: Running) -> None:
    log, away = world.hq / "log", world.root / "log-away"
    log.rename(away)
    log.write_text("a file where the log was")
    with world.client(running.url, "line1") as client:
        got = client.post("/v1/credentials", json=asked(BORN[4], csr=device_csr(BORN[4])))
    assert got.status_code == 200, got.text
    assert running.process.wait(30) != 0
    assert "publish_failed" in running.log.read_text()
    log.unlink()
    away.rename(log)
    with open_workspace(world.hq) as hq:
        assert str(hq.records.device(BORN[4]).state) == "issued"
    run("ledger", "replay", "-C", "hq", cwd=world.root)
