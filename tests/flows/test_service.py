"""The service and a station that asks it online: the whole way, over real TLS, with the real commands."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from birthmark.shell.wiring import open_workspace
from support.serviceworld import BIRTHMARK, BORN, POOLED, STATION, Running, World, build_world, device_csr


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
