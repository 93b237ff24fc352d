"""TLS as one device, whatever its key lies in: a file, a PKCS#11 token, or still the hands of the station.

Keys in files and in memory are used through OpenSSL (``ssl``), keys in a token through GnuTLS (``gnutls-cli``), which
signs inside the token: the standard library cannot, and the PKCS#11 engine of OpenSSL crashes on tokens that also hold
Edwards keys. The PIN goes through a pipe that is read once, never into arguments or the environment; a key in memory
goes through a file that has no name and lies on no disk.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from birthmark.adapters.pkcs11_module import pkcs11_module
from birthmark.errors import DeviceFault, Misconfigured, StationFault
from birthmark.model.secret import Secret
from birthmark.pki.certread import UNREADABLE
from birthmark.ports.admission import KeyHolder, TlsServer, TlsStream

__all__ = ["FileIdentity", "HeldIdentity", "TokenIdentity"]

_GNUTLS = "gnutls-cli"
_VERSIONS = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
_LEAVE_S = 1.0
_MOST_SAID = 16_384
_MOST_FILE = 1 << 18


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A device credential in files: PEM certificate with its chain behind it, and the private key (PEM)."""

    certificate: Path
    private_key: Path

    @property
    def held_by(self) -> KeyHolder:
        return "device"

    def certificates(self) -> Sequence[bytes]:
        try:
            with self.certificate.open("rb") as file:
                found = x509.load_pem_x509_certificates(file.read(_MOST_FILE))
        except (OSError, *UNREADABLE) as problem:
            raise _unusable(self.certificate, problem) from problem
        return [one.public_bytes(Encoding.DER) for one in found]

    def connect(self, server: TlsServer, seconds: float) -> TlsStream:
        context = _context(server)
        try:
            # The empty password keeps OpenSSL from asking the terminal for one.
            context.load_cert_chain(self.certificate, self.private_key, password="")
        except (ssl.SSLError, OSError) as problem:
            raise _unusable(self.certificate, problem) from problem
        return _opened(context, server, seconds)


@dataclass(frozen=True, slots=True)
class HeldIdentity:
    """A credential that the station has just installed and still holds. ``private_key``: PKCS#8 DER."""

    chain: tuple[bytes, ...]
    private_key: Secret

    @property
    def held_by(self) -> KeyHolder:
        return "station"

    def certificates(self) -> Sequence[bytes]:
        return self.chain

    def connect(self, server: TlsServer, seconds: float) -> TlsStream:
        context = _context(server)
        key = load_der_private_key(self.private_key.reveal(), None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        descriptor = os.memfd_create("device", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(pem + _pem(self.chain))
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
        except (ssl.SSLError, OSError) as problem:
            raise _unusable(Path("the key of this credential"), problem) from problem
        finally:
            os.close(descriptor)
        return _opened(context, server, seconds)


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """A device credential whose key is in a PKCS#11 token. ``chain``: DER, device first, issuing CA behind it."""

    module: Path
    token: str
    key_label: str
    pin: Secret
    chain: tuple[bytes, ...]

    @property
    def held_by(self) -> KeyHolder:
        return "device"

    def certificates(self) -> Sequence[bytes]:
        return self.chain

    def connect(self, server: TlsServer, seconds: float) -> TlsStream:
        """Start the client and return; what goes wrong with token or server is told by ``receive``."""
        _context(server)
        with ExitStack() as made:
            directory = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="birthmark-token-")))
            (directory / "chain.pem").write_bytes(_pem(self.chain))
            # Some modules rewrite a token when somebody logs in: nobody else may start or log in meanwhile.
            module = pkcs11_module(self.module)
            made.enter_context(module.lock)
            made.enter_context(module.exclusive())
            ours, theirs = socket.socketpair()
            made.callback(ours.close)
            pin = _readable(self.pin.reveal())
            said = (directory / "errors.txt").open("wb")
            try:
                process = subprocess.Popen(
                    self._command(server, directory, pin),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=said,
                    pass_fds=(pin,),
                    start_new_session=True,
                )
            except FileNotFoundError as problem:
                raise StationFault(
                    "handshake.tool",
                    f"{_GNUTLS} is not installed",
                    hint="Install it: apt-get install gnutls-bin.",
                ) from problem
            finally:
                theirs.close()
                said.close()
                os.close(pin)
            return _TokenStream(self.token, server, process, ours, directory, made.pop_all())

    def _command(self, server: TlsServer, directory: Path, pin: int) -> list[str]:
        trust = ("--x509cafile", server.trust) if server.trust else ()
        return [
            _GNUTLS,
            *("--provider", str(self.module)),
            *("--x509certfile", str(directory / "chain.pem")),
            *("--x509keyfile", f"{_key_uri(self)};pin-source=/dev/fd/{pin}"),
            *trust,
            *("--priority", _VERSIONS),
            *(part for name in server.alpn for part in ("--alpn", name)),
            *("--verify-hostname", server.name),
            *("--sni-hostname", server.name),
            *("--logfile", str(directory / "said.txt")),
            *("--port", str(server.port)),
            server.host,
        ]


class _SslStream:
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection

    def send(self, data: bytes, seconds: float) -> None:
        self._connection.settimeout(_positive(seconds))
        self._connection.sendall(data)

    def receive(self, most: int, seconds: float) -> bytes:
        self._connection.settimeout(_positive(seconds))
        return self._connection.recv(most)

    def close(self) -> None:
        self._connection.close()


class _TokenStream:
    """Nobody else logs in to the token until the server has said its first word, or the connection ended."""

    def __init__(
        self,
        token: str,
        server: TlsServer,
        process: subprocess.Popen[bytes],
        ours: socket.socket,
        directory: Path,
        held: ExitStack,
    ) -> None:
        self._token, self._server, self._process = token, server, process
        self._ours, self._directory, self._held = ours, directory, held

    def send(self, data: bytes, seconds: float) -> None:
        self._ours.settimeout(_positive(seconds))
        try:
            self._ours.sendall(data)
        except ConnectionError:
            return  # the client has left: ``receive`` says why

    def receive(self, most: int, seconds: float) -> bytes:
        self._ours.settimeout(_positive(seconds))
        try:
            data = self._ours.recv(most)
        except ConnectionError:
            data = b""
        if not data:
            self._end()
            self._require_no_fault()
        return data

    def close(self) -> None:
        self._ours.close()
        self._end()
        self._held.close()

    def _end(self) -> None:
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _require_no_fault(self) -> None:
        """Return if the connection merely ended; raise what the client said otherwise."""
        said = _said(self._directory / "errors.txt")
        if "provided PIN" in said or "PIN is locked" in said:
            raise Misconfigured(
                "handshake.pin",
                f"the PIN of token {self._token} is wrong",
                hint="Check the secret that pin-source names; it was tried once only.",
                token=self._token,
            )
        told = _said(self._directory / "said.txt")
        if "PKI verification of server certificate failed" in told:
            raise _untrusted(self._server, "GnuTLS does not trust its certificate")
        if "Could not connect" in said or "Cannot resolve" in said:
            raise ConnectionRefusedError(said[:300])
        if self._process.returncode:
            raise ConnectionResetError(said[:300] or "the server ended the connection")


def _said(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_SAID).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _readable(data: bytes) -> int:
    """Return a descriptor from which ``data`` can be read, once."""
    readable, writable = os.pipe()
    try:
        os.write(writable, data)
    finally:
        os.close(writable)
    return readable


def _context(server: TlsServer) -> ssl.SSLContext:
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


def _opened(context: ssl.SSLContext, server: TlsServer, seconds: float) -> _SslStream:
    with ExitStack() as made:
        raw = socket.create_connection((server.host, server.port), timeout=_positive(seconds))
        made.callback(raw.close)
        try:
            connection = context.wrap_socket(raw, server_hostname=server.name)
        except ssl.SSLCertVerificationError as problem:
            raise _untrusted(server, problem.verify_message) from problem
        made.pop_all()
    return _SslStream(connection)


def _positive(seconds: float) -> float:
    """A time-out of nothing would mean not to wait but to fail in another way."""
    if seconds <= 0:
        raise TimeoutError("there is no time left")
    return seconds


def _pem(chain: Sequence[bytes]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)


def _key_uri(identity: TokenIdentity) -> str:
    return f"pkcs11:token={_quoted(identity.token)};object={_quoted(identity.key_label)};type=private"


def _quoted(text: str) -> str:
    """Percent-encode a label for a PKCS#11 URI (RFC 7512)."""
    return "".join(c if c.isascii() and c.isalnum() else "".join(f"%{o:02X}" for o in c.encode()) for c in text)


def _unusable(certificate: Path, problem: Exception) -> DeviceFault:
    return DeviceFault(
        "handshake.credential",
        f"key and certificate of the device cannot be used: {problem}",
        hint="The files were damaged after they were written; rework the device.",
        certificate=str(certificate),
    )


def _untrusted(server: TlsServer, reason: str) -> StationFault:
    return StationFault(
        "handshake.untrusted",
        f"the server at {server.host}:{server.port} is not {server.name}: {reason}",
        hint="Check the address and the CAs that may speak for it; somebody else may be answering in its place.",
        host=server.host,
        port=server.port,
    )
