"""Whoever wants to keep the service busy: many connections, answers that are not read, bodies that unfold."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from birthmark.errors import StationFault
from birthmark.shell.api import connection as connection_module
from birthmark.shell.api import reports
from birthmark.shell.api.connection import close_slow
from birthmark.workflow.line.issuebatch import MOST_REFUSALS
from support.serviceworld import BORN, Running, World, build_world, device_csr

CONNECTIONS = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = build_world(tmp_path_factory.mktemp("exhaustion") / "world")
    settings = world.hq / "birthmark.toml"
    settings.write_text(settings.read_text().replace("[serve]\n", f"[serve]\nconnections = {CONNECTIONS}\n"))
    return world


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Running]:
    with world.running() as running:
        yield running


def connect(world: World, running: Running, who: str | None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", running.port))
    plain.settimeout(60)
    return world.tls(who).wrap_socket(plain, server_hostname="127.0.0.1")


def asks_health(client: ssl.SSLSocket) -> bool:
    """Say whether this connection still gets an answer."""
    try:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        return client.recv(1000).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def test_clients_without_a_certificate_cannot_take_all_connections(world: World, running: Running) -> None:
    strangers = [connect(world, running, None) for _ in range(CONNECTIONS)]
    served = sum(asks_health(stranger) for stranger in strangers)
    assert served <= CONNECTIONS // 4
    with world.client(running.url, "line1") as client:
        assert client.get("/v1/orders").status_code == 200
    for stranger in strangers:
        stranger.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
@pytest.mark.parametrize("path", ["/v1/credentials", "/v1/reports"])
def test_compressed_bodies_are_refused_unopened(world: World, running: Running, path: str, encoding: str) -> None:
    bomb = gzip.compress(bytes(1 << 20)) * 4
    with world.client(running.url, "line1") as client:
        answer = client.post(path, content=bomb, headers={"content-encoding": encoding})
        assert (answer.status_code, answer.json()["error"]) == (415, "service.request.encoding")
        assert client.get("/v1/orders").status_code == 200
    assert not list((world.hq / "sites").rglob("*.report"))


def test_plain_body_that_says_so_is_taken(world: World, running: Running) -> None:
    import base64

    body = {"attempt": "attempt-0777", "device_serial": BORN[3], "csr": base64.b64encode(device_csr(BORN[3])).decode()}
    with world.client(running.url, "line1") as client:
        answer = client.post(
            "/v1/credentials", content=json.dumps(body).encode(), headers={"content-encoding": "identity"}
        )
        assert answer.status_code == 200


class _Transport:
    def __init__(self, waiting: list[int]) -> None:
        self.waiting = waiting
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]

    def abort(self) -> None:
        self.aborted = True


class _Client:
    def __init__(self, *waiting: int) -> None:
        self.transport = _Transport(list(waiting))
        self.deadline: float | None = None
        self.unread = (0, 0.0)


def test_client_that_reads_no_answer_is_closed_and_a_slow_reader_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "STALL_S", 0.0)
    stalled, slow, idle = _Client(900), _Client(*range(900, 700, -1)), _Client(0)
    clients: set[Any] = {stalled, slow, idle}

    async def watch() -> None:
        watching = asyncio.create_task(close_slow(clients, every_s=0.0))
        while not stalled.transport.aborted:
            await asyncio.sleep(0)
        watching.cancel()

    asyncio.run(watch())
    assert (stalled.transport.aborted, slow.transport.aborted, idle.transport.aborted) == (True, False, False)


def test_a_station_that_is_let_in_cannot_fill_the_log_with_refusals(world: World, running: Running) -> None:
    codes = []
    with world.client(running.url, "line1") as client:
        for number in range(MOST_REFUSALS + 5):
            asked = {"attempt": f"noise-{number:06d}", "device_serial": f"NOBODY-{number}"}
            answer = client.post("/v1/credentials", json=asked)
            codes.append((answer.status_code, answer.json()["error"]))
        assert answer.headers["retry-after"]
    assert set(codes[:MOST_REFUSALS]) == {(404, "device.unknown")}
    assert set(codes[MOST_REFUSALS:]) == {(429, "service.refusals")}


def test_one_site_sends_one_report_at_a_time(world: World, running: Running) -> None:
    """Each may take 8 GiB and an hour, and a thread that waits: no site takes them all."""
    begins = b"POST /v1/reports HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc"
    first = connect(world, running, "line1")
    first.sendall(begins)
    with world.client(running.url, "line1") as client, world.client(running.url, "munich") as other:
        answer = client.post("/v1/reports", content=b"x" * 300_000)
        while answer.status_code == 422:  # the first has not been seen yet
            answer = client.post("/v1/reports", content=b"x" * 300_000)
        assert (answer.status_code, answer.json()["error"]) == (429, "service.busy")
        assert "retry-after" in answer.headers
        assert other.post("/v1/reports", content=b"x").status_code == 422
        first.close()
        for _ in range(100):
            answer = client.post("/v1/reports", content=b"x")
            if answer.status_code == 422:
                break
            time.sleep(0.05)
        assert answer.status_code == 422


def test_reports_leave_room_for_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(tmp_path)
    small = os.statvfs_result((4096, 4096, 1 << 30, 1 << 10, 1 << 10, *disk[5:]))
    monkeypatch.setattr("birthmark.shell.api.reports.os.statvfs", lambda path: small)
    parts = [{"type": "http.request", "body": b"x" * (1 << 20), "more_body": number < 63} for number in range(64)]

    async def receive() -> Any:
        return parts.pop(0)

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(StationFault) as raised:
        asyncio.run(reports._spool(request, tmp_path / "inbox"))
    assert raised.value.code == "storage.full"
    assert list((tmp_path / "inbox").iterdir()) == []
    assert parts == []  # read to the end, so that the answer is seen
