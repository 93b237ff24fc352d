"""A real Mosquitto (Debian ``mosquitto``) that lets in devices with a certificate: the common name is the user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.testing.dps.certs import ServerIdentity

__all__ = ["HOST", "Broker", "broker"]

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
_ACL = "pattern readwrite things/%u/#\n"


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
