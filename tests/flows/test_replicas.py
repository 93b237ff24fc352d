"""Two machines serve one authority: one database, one log, and one of them dies while stations ask both."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Lock
from typing import Any

import httpx
import pytest
from cryptography import x509

from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.handout import stored_certificate
from support.postgres import PostgresServer
from support.serviceworld import device_csr
from support.serving import Running, serving
from support.siteworld import SiteWorld

DEVICES = [f"RE-{number:04d}" for number in range(1, 97)]
STATIONS = 4


@pytest.fixture
def world(tmp_path: Path, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]) -> SiteWorld:
    """``hq`` and ``other`` are the workspace on two machines; an order is assigned to an online site."""
    make_workspace(tmp_path / "hq", ledger=f"postgres:{postgres.conninfo()}")
    world = SiteWorld(tmp_path, capsys)
    world.join("fab", "online")
    world.good("order", "create", "lot", "--product", "device", "--quantity", str(len(DEVICES)), "--first", DEVICES[0],
               "--key-origin", "device", "--site", "fab", "-C", world.hq)  # fmt: skip
    world.good("access", "server", "--name", "127.0.0.1", "-C", world.hq)
    shutil.copytree(world.hq, tmp_path / "other")
    return world


class Line:
    """Stations that ask any replica until one answers, always with the attempt that they stored."""

    def __init__(self, world: SiteWorld, replicas: list[Running], enough: int) -> None:
        site = world.place / "fab"
        self._tls = ssl.create_default_context(cafile=str(site / "tls" / "service-ca.pem"))
        self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        passphrase = (world.hq / "secrets" / "passphrase").read_text()
        self._tls.load_cert_chain(site / "tls" / "line1.pem", site / "keys" / "tls-line1.pem", password=passphrase)
        self._replicas = replicas
        self._lock = Lock()
        self._enough = enough
        self.answers: dict[str, bytes] = {}
        self.half = Event()

    def work(self, devices: list[str], first: int) -> None:
        for device in devices:
            body = {"attempt": f"attempt-{device}", "device_serial": device}
            body["csr"] = base64.b64encode(device_csr(device)).decode()
            certificate = self._ask(body, first)
            with self._lock:
                self.answers[device] = certificate
                if len(self.answers) >= self._enough:
                    self.half.set()

    def _ask(self, body: dict[str, Any], first: int) -> bytes:
        for number in range(first, first + 600):
            url = self._replicas[number % len(self._replicas)].url
            try:
                got = httpx.post(f"{url}/v1/credentials", json=body, verify=self._tls, trust_env=False, timeout=20)
            except httpx.TransportError:
                continue
            if got.status_code == 200:
                return base64.b64decode(got.json()["certificate"])
            assert got.status_code in (429, 500, 503), got.text
        raise AssertionError(f"no replica answered for {body['device_serial']}")


def certificates(workspace: Path) -> Iterator[tuple[str, bytes]]:
    with open_workspace(workspace, publish=False) as opened:
        for device in DEVICES:
            yield device, stored_certificate(opened.ledger, opened.records.device(device))


def test_a_replica_dies_under_load_and_no_identity_is_doubled_or_lost(world: SiteWorld) -> None:
    other = world.place / "other"
    with ExitStack() as stack:
        replicas = [stack.enter_context(serving(at, world.place / f"{at.name}.log")) for at in (world.hq, other)]
        line = Line(world, replicas, enough=len(DEVICES) // 3)
        with ThreadPoolExecutor(STATIONS) as pool:
            jobs = [pool.submit(line.work, DEVICES[at::STATIONS], at) for at in range(STATIONS)]
            assert line.half.wait(120)
            replicas[0].process.send_signal(signal.SIGKILL)
            for job in jobs:
                job.result(timeout=300)
        assert replicas[1].stop() == 0
    assert dict(certificates(other)) == line.answers
    numbers = {x509.load_der_x509_certificate(der).serial_number for der in line.answers.values()}
    assert len(numbers) == len(DEVICES)
    world.good("ledger", "export", "--sqlite", other / "ledger" / "ledger.db", "-C", other)
    report = world.good("audit", "verify", other)
    assert [item["code"] for item in report["findings"] if item["severity"] == "error"] == [], json.dumps(report)
