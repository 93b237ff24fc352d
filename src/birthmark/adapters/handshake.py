"""A real mutual-TLS connection as proof: a server that trusts one issuing CA, and the device's key as the client.

What counts is what the *server* saw. How the device connects is ``adapters.devicetls``.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.errors import DeviceFault, Misconfigured, StationFault
from birthmark.pki.certread import UNREADABLE
from birthmark.ports.admission import DeviceTls, TlsServer
from birthmark.wire.receipt import Handshake

__all__ = ["TlsVerifier"]

_HOST = "127.0.0.1"
_SERVER_NAME = "verifier.birthmark.invalid"
_TIMEOUT_S = 20.0


@dataclass(slots=True)
class _Seen:
    """What the server made of one connection."""

    peer: bytes | None = None
    tls_version: str = ""
    cipher: str = ""
    problem: str = "no connection arrived"


class TlsVerifier:
    """A TLS server on the loopback that asks for a client certificate; it may run for a whole shift.

    ``trusted``: certificates (DER) of the issuing CAs whose devices are accepted, and of nobody else: neither the root
    nor its other CAs. ``connect`` may be called by many threads.
    """

    def __init__(self, trusted: Sequence[bytes], *, clock_skew: timedelta = timedelta(hours=1)) -> None:
        trusted_pem = _trusted_pem(trusted)
        self._directory = tempfile.TemporaryDirectory(prefix="birthmark-verifier-")
        self._server_pem = Path(self._directory.name) / "server.pem"
        self._ca_file = Path(self._directory.name) / "server-ca.pem"
        self._ca_file.write_bytes(_write_server_identity(self._server_pem, clock_skew))
        trusted_file = Path(self._directory.name) / "trusted.pem"
        trusted_file.write_bytes(trusted_pem)
        self._context = _server_context(self._server_pem, trusted_file)

    def __enter__(self) -> TlsVerifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the server's key. Closing twice is safe."""
        self._directory.cleanup()

    def connect(self, identity: DeviceTls) -> Handshake:
        """Make one connection with the device's credential; return what the server saw.

        Raises ``DeviceFault("handshake.refused")`` when the server did not accept the device, ``StationFault`` when no
        connection could be tried (``handshake.tool``, ``handshake.server``), ``Misconfigured`` for unusable files.
        """
        seen = _Seen()
        with self._listening() as listener:
            port = listener.getsockname()[1]
            server = threading.Thread(target=_serve_one, args=(listener, self._context, seen), daemon=True)
            server.start()
            try:
                said = self._said(identity, port)
            finally:
                _wake(port)
                server.join(_TIMEOUT_S)
        if seen.peer is None:
            raise DeviceFault(
                "handshake.refused",
                f"the TLS server did not accept the device: {seen.problem}",
                hint="Do not ship it; rework it with a new identity, and check that the server trusts its issuing CA.",
                server=seen.problem[:300],
                client=said[:300],
            )
        return Handshake(
            peer_cert_sha256=sha256(seen.peer).hexdigest(), tls_version=seen.tls_version, cipher=seen.cipher
        )

    def _listening(self) -> socket.socket:
        try:
            listener = socket.create_server((_HOST, 0))
        except OSError as problem:
            raise StationFault(
                "handshake.server",
                f"the TLS server cannot listen: {problem}",
                hint="Allow this program to open a port on the loopback interface.",
            ) from problem
        listener.settimeout(_TIMEOUT_S)
        return listener

    def _said(self, identity: DeviceTls, port: int) -> str:
        """Connect and return how the connection ended for the device."""
        server = TlsServer(_HOST, port, _SERVER_NAME, trust=str(self._ca_file))
        try:
            stream = identity.connect(server, _TIMEOUT_S)
            try:
                stream.receive(16, _TIMEOUT_S)
            finally:
                stream.close()
        except TimeoutError as problem:
            raise StationFault(
                "handshake.timeout",
                f"the connection of the device did not come about within {_TIMEOUT_S:.0f} seconds",
                hint="Check the token and try again.",
            ) from problem
        except OSError as problem:
            return str(problem)
        return "connected"


def _wake(port: int) -> None:
    """End the wait of a server that nobody reached."""
    try:
        socket.create_connection((_HOST, port), timeout=1).close()
    except OSError:
        return


def _serve_one(listener: socket.socket, context: ssl.SSLContext, seen: _Seen) -> None:
    try:
        raw, _ = listener.accept()
        raw.settimeout(_TIMEOUT_S)
        with raw, context.wrap_socket(raw, server_side=True) as connection:
            connection.sendall(b"ok\n")
            cipher = connection.cipher()
            seen.peer = connection.getpeercert(binary_form=True)
            seen.tls_version = connection.version() or ""
            seen.cipher = cipher[0] if cipher else ""
    except OSError as problem:
        seen.problem = str(problem)


def _trusted_pem(trusted: Sequence[bytes]) -> bytes:
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in trusted]
    except UNREADABLE as problem:
        raise _no_trust(str(problem)) from problem
    if not certificates:
        raise _no_trust("there are none")
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _no_trust(reason: str) -> Misconfigured:
    return Misconfigured(
        "handshake.trust",
        f"the TLS server cannot trust these CA certificates: {reason}",
        hint="Give the certificates of the issuing CAs.",
    )


def _server_context(server_pem: Path, trusted_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Only these CAs, not what else their root has signed: each is an anchor by itself.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_cert_chain(server_pem)
    # A file, not cadata: cadata reports whatever error lies in this thread's OpenSSL queue, whoever left it there.
    context.load_verify_locations(trusted_file)
    return context


def _write_server_identity(path: Path, clock_skew: timedelta) -> bytes:
    """Write key and certificate of the server, for this run only; return the certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _SERVER_NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - clock_skew)
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate)
    return certificate
