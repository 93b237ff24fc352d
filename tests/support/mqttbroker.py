"""A real Mosquitto that lets in devices with a certificate, behind a gate that looks at what they say first.

AWS IoT reads server name and application protocol of a TLS ClientHello; Mosquitto reads neither. The gate reads them
(RFC 8446, section 4.1.2), lets no connection through that lacks what is wanted, and otherwise only passes octets on.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.testing.dps.certs import ServerIdentity

__all__ = ["Broker", "Gate", "broker", "gate"]

HOST = "localhost"
_FOUND = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin")
_CONFIGURATION = """listener {port} 127.0.0.1
protocol mqtt
cafile {place}/devices.pem
certfile {place}/server.pem
keyfile {place}/server.key
{crl}require_certificate true
use_identity_as_username true
acl_file {place}/acl
"""
_ACL = "pattern readwrite devices/%u/#\n"


@dataclass(frozen=True)
class Broker:
    """``trust``: PEM file of the CA that speaks for it, under the name ``localhost``."""

    port: int
    trust: Path
    log: Path


@contextmanager
def broker(place: Path, cas: Sequence[bytes], *, crl: bytes | None = None) -> Iterator[Broker]:
    """Run Mosquitto for devices below ``cas`` (DER), with a revocation list (PEM) if one is given."""
    place.mkdir(parents=True)
    own = ServerIdentity([HOST])
    _write(place / "devices.pem", b"".join(x509.load_der_x509_certificate(ca).public_bytes(Encoding.PEM) for ca in cas))
    _write(place / "server.pem", own.certificate.public_bytes(Encoding.PEM))
    _write(place / "server.key", own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    _write(place / "trust.pem", own.root_pem.encode())
    _write(place / "acl", _ACL.encode())
    if crl is not None:
        _write(place / "crl.pem", crl)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    named = "" if crl is None else f"crlfile {place}/crl.pem\n"
    _write(place / "mosquitto.conf", _CONFIGURATION.format(port=port, place=place, crl=named).encode())
    log = place / "log"
    with log.open("wb") as file:
        # As root it would become another user, who cannot read the files of this test.
        account = ["user root\n"] if os.geteuid() == 0 else []
        with (place / "mosquitto.conf").open("a") as configuration:
            configuration.writelines(account)
        assert _FOUND is not None, "mosquitto is missing: see the Debian packages in the Makefile"
        running = subprocess.Popen([_FOUND, "-v", "-c", place / "mosquitto.conf"], stdout=file, stderr=file)
        try:
            _wait_for(port, running, log)
            yield Broker(port, place / "trust.pem", log)
        finally:
            running.terminate()
            running.wait(10)


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


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _wait_for(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert running.poll() is None, log.read_text()
        time.sleep(0.02)
    raise AssertionError(f"mosquitto does not listen: {log.read_text()}")
