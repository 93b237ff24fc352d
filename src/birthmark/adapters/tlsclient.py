"""GnuTLS (``gnutls-cli``) as a stream, for keys behind PKCS#11: the standard library cannot use them.

The client is a program of its own, with a socket of ours as its standard input and output. What it asks us for while it
runs (signatures of a key that we reach) is served while we wait for it, by whoever waits: there is no thread.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import Misconfigured, StationFault
from birthmark.ports.admission import TlsServer

__all__ = ["Beside", "ClientKey", "ClientStream", "open_client", "pem_of", "positive", "tls_context", "untrusted"]

_GNUTLS = "gnutls-cli"
_LEAVE_S = 1.0
_MOST_SAID = 16_384


class Beside(Protocol):
    """What a client asks us for while it runs. ``fileno``: readable when it asks, -1 once it asks no more.

    ``serve`` answers once, within ``remaining()`` seconds; ``close`` ends it, and may be called twice.
    """

    def fileno(self) -> int: ...

    def serve(self, remaining: Callable[[], float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The key that a client uses. ``module``: of PKCS#11; ``uri``: of the key in it (RFC 7512).

    ``require_no_fault``: called with what a client said that failed; raises if the key is why. ``descriptors``: those
    of ours that the client shares. ``environment``: what is added to ours. ``versions``: of TLS, best first.
    """

    module: str
    uri: str
    require_no_fault: Callable[[str], None]
    descriptors: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[str, ...] = ("TLS1.3", "TLS1.2")
    beside: Beside | None = None


class ClientStream:
    """Implements ``ports.admission.TlsStream`` on a running client.

    ``ended``: called with the exit code when the client is gone; it returns if the connection merely ended, and raises
    what the client said otherwise. ``held``: what is let go when the stream is closed.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        ours: socket.socket,
        held: ExitStack,
        ended: Callable[[int], None],
        beside: Beside | None = None,
    ) -> None:
        self._process, self._ours, self._held, self._ended, self._beside = process, ours, held, ended, beside
        ours.setblocking(False)

    def send(self, data: bytes, seconds: float) -> None:
        end = time.monotonic() + positive(seconds)
        rest = memoryview(data)
        try:
            while rest:
                self._wait(select.POLLOUT, end)
                with suppress(BlockingIOError):
                    rest = rest[self._ours.send(rest) :]
        except ConnectionError:
            return  # the client has left: ``receive`` says why

    def receive(self, most: int, seconds: float) -> bytes:
        self._wait(select.POLLIN, time.monotonic() + positive(seconds))
        try:
            data = self._ours.recv(most)
        except ConnectionError:
            data = b""
        if not data:
            self._end()
            self._ended(self._process.returncode)
        return data

    def close(self) -> None:
        self._ours.close()
        if self._beside is not None:
            self._beside.close()
        self._end()
        self._held.close()

    def _wait(self, event: int, end: float) -> None:
        """Return once our socket is ready; serve the client meanwhile."""
        while True:
            poll = select.poll()
            poll.register(self._ours, event)
            asks = -1 if self._beside is None else self._beside.fileno()
            if asks >= 0:
                poll.register(asks, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll(max(0.0, end - time.monotonic()) * 1000)]
            if not ready:
                raise TimeoutError("timed out")
            if self._beside is None or asks not in ready:
                return
            self._beside.serve(lambda: end - time.monotonic())

    def _end(self) -> None:
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            # What it has started is of its session, and ends with it.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def open_client(
    server: TlsServer,
    chain: Sequence[bytes],
    key: ClientKey,
    held: ExitStack,
) -> ClientStream:
    """Start the client and return; what goes wrong with key or server is told by ``receive``.

    ``held``: what is let go with the stream. ``StationFault("handshake.tool")`` where the client is not installed.
    """
    with held:
        tls_context(server)
        directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="birthmark-tls-")))
        (directory / "chain.pem").write_bytes(pem_of(chain))
        ours, theirs = socket.socketpair()
        held.callback(ours.close)
        with theirs, (directory / "errors.txt").open("wb") as said:
            try:
                process = subprocess.Popen(
                    _command(server, key, directory),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=said,
                    pass_fds=key.descriptors,
                    env={**os.environ, **key.environment},
                    start_new_session=True,
                )
            except FileNotFoundError as problem:
                raise StationFault(
                    "handshake.tool",
                    f"{_GNUTLS} is not installed",
                    hint="Install it: apt-get install gnutls-bin.",
                ) from problem
        ended = partial(_require_no_fault, server, key, directory)
        return ClientStream(process, ours, held.pop_all(), ended, key.beside)


def _command(server: TlsServer, key: ClientKey, directory: Path) -> list[str]:
    trust = ("--x509cafile", server.trust) if server.trust else ()
    return [
        _GNUTLS,
        *("--provider", key.module),
        *("--x509certfile", str(directory / "chain.pem")),
        *("--x509keyfile", key.uri),
        *trust,
        *("--priority", "NORMAL:-VERS-ALL:" + ":".join(f"+VERS-{version}" for version in key.versions)),
        *(part for name in server.alpn for part in ("--alpn", name)),
        *("--verify-hostname", server.name),
        *("--sni-hostname", server.name),
        *("--logfile", str(directory / "said.txt")),
        *("--port", str(server.port)),
        server.host,
    ]


def _require_no_fault(server: TlsServer, key: ClientKey, directory: Path, exit_code: int) -> None:
    """Return if the connection merely ended; raise what the client said otherwise."""
    said, told = _said_in(directory / "errors.txt"), _said_in(directory / "said.txt")
    key.require_no_fault(said)
    if "PKI verification of server certificate failed" in told:
        raise untrusted(server, "GnuTLS does not trust its certificate")
    if "Could not connect" in said or "Cannot resolve" in said:
        raise ConnectionRefusedError(said[:300])
    if exit_code:
        raise ConnectionResetError(said[:300] or "the server ended the connection")


def tls_context(server: TlsServer) -> ssl.SSLContext:
    """Return how a device connects to ``server``; ``Misconfigured("handshake.trust")`` if ``trust`` is unreadable."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=server.trust or None)
    except OSError as problem:  # among them what OpenSSL makes of a file without certificates
        raise Misconfigured(
            "handshake.trust",
            f"the CAs that may speak for {server.name} cannot be read from {server.trust}",
            hint="Name a PEM file with the certificates of these CAs.",
            path=server.trust,
        ) from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if server.alpn:
        context.set_alpn_protocols(list(server.alpn))
    return context


def untrusted(server: TlsServer, reason: str) -> StationFault:
    """Return the error for a server that is another than it has to be."""
    return StationFault(
        "handshake.untrusted",
        f"the server at {server.host}:{server.port} is not {server.name}: {reason}",
        hint="Check the address and the CAs that may speak for it; somebody else may be answering in its place.",
        host=server.host,
        port=server.port,
    )


def pem_of(chain: Sequence[bytes]) -> bytes:
    """Return certificates (DER) as one PEM text."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)


def _said_in(path: Path) -> str:
    """Return the start of what a client wrote to a file, "" if there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_SAID).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def positive(seconds: float) -> float:
    """Return ``seconds``: a time-out of nothing would mean not to wait but to fail in another way."""
    if seconds <= 0:
        raise TimeoutError("there is no time left")
    return seconds
