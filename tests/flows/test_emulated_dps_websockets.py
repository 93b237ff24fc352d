"""MQTT over WebSockets on the HTTPS port of the emulated DPS, with Microsoft's own client."""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from socket import create_connection

import pytest

from birthmark.testing.dps import EmulatedDps
from support.dpsdevices import group_of, new_root
from support.dpsservice import signer, verify_ca
from support.vendortools import run_tool

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "azurewebsockets.py"
KEY = b64encode(b"0123456789abcdef").decode()
ASKED = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY, "Sec-WebSocket-Version": "13",
         "Sec-WebSocket-Protocol": "mqtt"}  # fmt: skip


@pytest.fixture
def dps() -> Iterator[EmulatedDps]:
    with EmulatedDps(mqtt_port=0, assigning_s=0.2) as running:
        yield running


@contextmanager
def opened(dps: EmulatedDps) -> Iterator[ssl.SSLSocket]:
    trust = ssl.create_default_context(cadata=dps.root_pem)
    plain = create_connection((dps.host, dps.https_port), timeout=5)
    with trust.wrap_socket(plain, server_hostname=dps.host) as stream:
        lines = "".join(f"{name}: {value}\r\n" for name, value in ASKED.items())
        stream.sendall(f"GET /$iothub/websocket HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += stream.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        yield stream


def frame(kind: int, data: bytes) -> bytes:
    """Return a frame as a client sends it; the mask is zero."""
    return bytes([0x80 | kind, 0x80 | len(data), 0, 0, 0, 0]) + data


def test_microsofts_client_registers_over_websockets(dps: EmulatedDps, tmp_path: Path) -> None:
    root = new_root()
    verify_ca(dps, root.certificate, signer(root.certificate, root.key))
    dps.groups.put(group_of("line", root))
    unit = root.device(tmp_path, "unit-1")
    trust = tmp_path / "root.pem"
    trust.write_text(dps.root_pem)
    files = (unit.directory / "chain.pem", unit.directory / "key.pem")
    said = run_tool("azure", "python", SCRIPT, dps.host, str(dps.https_port), dps.id_scope, trust, "unit-1", *files)
    seen = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert seen == {"status": "assigned", "device": "unit-1"}


def test_pings_are_answered_and_a_goodbye_is_returned(dps: EmulatedDps) -> None:
    with opened(dps) as stream:
        stream.sendall(frame(9, b"alive"))
        assert stream.recv(7) == b"\x8a\x05alive"
        stream.sendall(frame(8, b"\x03\xe8"))
        assert stream.recv(4) == b"\x88\x02\x03\xe8"
        assert stream.recv(1) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\x82\x01x",  # not masked
        b"\xc2\x81\0\0\0\0x",  # an extension that was not agreed upon
        b"\x82\xff" + b"\xff" * 8,  # longer than anything
        b"\x89\xfe\x01\x00\0\0\0\0",  # a ping that is too long
        frame(1, b"text"),
        frame(2, b"\x30\x02\x00\x09"),  # MQTT that does not begin with CONNECT
    ],
)
def test_what_is_no_frame_of_a_client_ends_the_connection_and_nothing_else(dps: EmulatedDps, sent: bytes) -> None:
    with opened(dps) as stream:
        stream.sendall(sent)
        assert stream.recv(16) == b""
    with opened(dps) as stream:
        stream.sendall(frame(9, b""))
        assert stream.recv(2) == b"\x8a\x00"


@pytest.mark.parametrize(
    "wrong", [{"Sec-WebSocket-Key": "short"}, {"Sec-WebSocket-Protocol": "amqp"}, {"Upgrade": "h2c"}]
)
def test_another_upgrade_is_refused(dps: EmulatedDps, wrong: dict[str, str]) -> None:
    trust = ssl.create_default_context(cadata=dps.root_pem)
    connection = HTTPSConnection(dps.host, dps.https_port, context=trust, timeout=5)
    connection.request("GET", "/$iothub/websocket", headers={**ASKED, **wrong})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["errorCode"]) == (400, 400018)
    connection.close()
