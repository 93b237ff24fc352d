"""A gate before an MQTT broker that looks at what clients say first.

AWS IoT reads server name and application protocol of a TLS ClientHello; Mosquitto reads neither. The gate reads them
(RFC 8446, section 4.1.2), lets no connection through that lacks what is wanted, and otherwise only passes octets on.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["Gate", "gate"]


@dataclass
class Gate:
    """``hellos``: server name and application protocols of each connection. ``drops``: how many more it cuts."""

    port: int = 0
    hellos: list[tuple[str | None, tuple[str, ...]]] = field(default_factory=list)
    drops: int = 0


@contextmanager
def gate(to_port: int, *, drops: int = 0) -> Iterator[Gate]:
    """Stand before a port of this machine; the first ``drops`` connections are cut after their first octets."""
    listener = socket.create_server(("127.0.0.1", 0))
    opened = Gate(listener.getsockname()[1], drops=drops)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=_pass_on, args=(client, to_port, opened), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield opened
    finally:
        listener.close()


def _pass_on(client: socket.socket, to_port: int, seen: Gate) -> None:
    with client, suppress(OSError):
        hello = _record(client)
        if not hello:
            return
        seen.hellos.append(_read_hello(hello))
        if seen.drops:
            seen.drops -= 1
            return
        with socket.create_connection(("127.0.0.1", to_port)) as server:
            server.sendall(hello)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join(10)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(16_384):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _record(client: socket.socket) -> bytes:
    data = b""
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
        part = client.recv(4096)
        if not part:
            return b""
        data += part
    return data


def _read_hello(record: bytes) -> tuple[str | None, tuple[str, ...]]:
    body = record[5 + 4 + 2 + 32 :]
    body = body[1 + body[0] :]
    body = body[2 + int.from_bytes(body[:2], "big") :]
    body = body[1 + body[0] :][2:]
    name, protocols = None, []
    while len(body) >= 4:
        kind, length = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        value, body = body[4 : 4 + length], body[4 + length :]
        if kind == 0:
            name = value[5:].decode()
        elif kind == 16:
            rest = value[2:]
            while rest:
                protocols.append(rest[1 : 1 + rest[0]].decode())
                rest = rest[1 + rest[0] :]
    return name, tuple(protocols)
