"""Whole and plain requests are answered the short way; whatever way a request goes, it gets the same answer."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from support.serviceworld import BORN, Running, World, build_world, device_csr

ROUTE = "POST /v1/credentials HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("short") / "world")


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Running]:
    with world.running() as running:
        yield running


@pytest.fixture
def line(world: World, running: Running) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection(("127.0.0.1", running.port))
    plain.settimeout(30)
    with world.tls("line1").wrap_socket(plain, server_hostname="127.0.0.1") as client:
        yield client


def body_for(number: int) -> bytes:
    csr = base64.b64encode(device_csr(BORN[number])).decode()
    asked = {"attempt": f"short-{number:06d}", "device_serial": BORN[number], "csr": csr}
    return json.dumps(asked).encode()


def request(body: bytes, *headers: str, route: str = ROUTE) -> bytes:
    lines = "".join(f"{header}\r\n" for header in (f"content-length: {len(body)}", *headers))
    return (route + lines + "\r\n").encode() + body


def answers(client: ssl.SSLSocket, count: int) -> list[tuple[bytes, dict[str, object]]]:
    """Read so many whole answers: (head, document)."""
    found, came = [], b""
    while len(found) < count:
        head, end, rest = came.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and length is not None and len(rest) >= int(length[1]):
            found.append((head, json.loads(rest[: int(length[1])])))
            came = rest[int(length[1]) :]
            continue
        part = client.recv(65536)
        assert part, came
        came += part
    assert came == b""
    return found


def test_requests_that_come_at_once_are_answered_in_order(line: ssl.SSLSocket) -> None:
    """The first goes the short way, those behind it wait for it; a short one follows a long one as well."""
    first, second = body_for(0), body_for(1)
    unknown = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"
    line.sendall(request(first) + request(second) + unknown + request(first))
    got = answers(line, 4)
    serials = [document.get("device_serial") for _, document in got]
    assert serials == [BORN[0], BORN[1], None, BORN[0]]
    assert got[0][1] == got[3][1]
    line.sendall(unknown + request(second))
    (_, refused), (_, again) = answers(line, 2)
    assert (refused["error"], again) == ("service.not_found", got[1][1])


def test_every_way_leads_to_the_same_answer(line: ssl.SSLSocket) -> None:
    body = body_for(2)
    line.sendall(request(body))
    ((head, expected),) = answers(line, 1)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ncache-control: no-store" in head
    assert b"\r\ndate: " in head
    whole = request(body)
    for cut in (20, len(ROUTE), len(whole) - len(body), len(whole) - 1):
        line.sendall(whole[:cut])
        line.sendall(whole[cut:])
        assert answers(line, 1)[0][1] == expected
    for long_way in (
        request(body, "content-encoding: identity"),
        request(body, route=ROUTE.replace("/v1/credentials", "/v1/credentials?x=1")),
        (ROUTE + f"transfer-encoding: chunked\r\n\r\n{len(body):x}\r\n").encode() + body + b"\r\n0\r\n\r\n",
    ):
        line.sendall(long_way)
        assert answers(line, 1)[0][1] == expected


def test_who_expects_to_be_told_to_go_on_is_told(line: ssl.SSLSocket) -> None:
    body = body_for(3)
    line.sendall(request(b"", "expect: 100-continue").replace(b"content-length: 0", b"content-length: %d" % len(body)))
    assert line.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.sendall(body)
    assert answers(line, 1)[0][1]["device_serial"] == BORN[3]


def test_the_connection_ends_with_the_answer_if_that_was_asked_for(line: ssl.SSLSocket) -> None:
    line.sendall(request(body_for(4), "connection: close"))
    ((head, document),) = answers(line, 1)
    assert document["device_serial"] == BORN[4]
    assert b"\r\nconnection: close" in head
    assert line.recv(1000) == b""


def test_a_refusal_the_short_way_is_a_document_like_any_other(line: ssl.SSLSocket) -> None:
    line.sendall(request(b'{"attempt": "short-none"}') + request(b"[]"))
    (first, told), (second, _) = answers(line, 2)
    assert first.startswith(b"HTTP/1.1 400 ")
    assert second.startswith(b"HTTP/1.1 400 ")
    assert (told["error"], told["family"]) == ("service.request.malformed", "Refused")


def test_a_long_body_that_comes_in_pieces_is_read_to_its_end(line: ssl.SSLSocket) -> None:
    whole = request(b"[" * 100_000)
    for start in range(0, len(whole), 20_000):
        line.sendall(whole[start : start + 20_000])
        time.sleep(0.05)
    ((head, told),) = answers(line, 1)
    assert (head[:13], told["error"]) == (b"HTTP/1.1 400 ", "service.request.malformed")
