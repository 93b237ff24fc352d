"""A real mutual-TLS connection as proof: a server that trusts one issuing CA, and the device's key as the client.

What counts is what the *server* saw. A key in a file is used through OpenSSL (``ssl``); a key in a token through
GnuTLS (``gnutls-cli``), which signs inside the token: the standard library cannot, and the PKCS#11 engine of OpenSSL
crashes on tokens that also hold Edwards keys. The PIN goes through a pipe, never into arguments or the environment.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
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

from birthmark.adapters.pkcs11_module import pkcs11_module
from birthmark.errors import DeviceFault, Misconfigured, StationFault
from birthmark.model.secret import Secret
from birthmark.pki.certread import UNREADABLE
from birthmark.wire.receipt import Handshake

__all__ = ["FileIdentity", "TlsVerifier", "TokenIdentity"]

_HOST = "127.0.0.1"
_SERVER_NAME = "verifier.birthmark.invalid"
_TIMEOUT_S = 20.0
_GNUTLS = "gnutls-cli"


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A device credential in files: PEM certificate with its chain behind it, and the private key (PEM)."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """A device credential whose key is in a PKCS#11 token. ``chain``: DER, device first, issuing CA behind it."""

    module: Path
    token: str
    key_label: str
    pin: Secret
    chain: tuple[bytes, ...]


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

    def connect(self, identity: FileIdentity | TokenIdentity) -> Handshake:
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
                said = (
                    self._connect_file(identity, port)
                    if isinstance(identity, FileIdentity)
                    else self._connect_token(identity, port)
                )
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

    def _connect_file(self, identity: FileIdentity, port: int) -> str:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self._ca_file))
        try:
            # The empty password keeps OpenSSL from asking the terminal for one.
            context.load_cert_chain(identity.certificate, identity.private_key, password="")
        except (ssl.SSLError, OSError) as problem:
            raise DeviceFault(
                "handshake.credential",
                f"key and certificate of the device cannot be used: {problem}",
                hint="The files were damaged after they were written; rework the device.",
                certificate=str(identity.certificate),
            ) from problem
        try:
            with (
                socket.create_connection((_HOST, port), timeout=_TIMEOUT_S) as raw,
                context.wrap_socket(raw, server_hostname=_SERVER_NAME) as connection,
            ):
                connection.recv(16)
        except OSError as problem:
            return str(problem)
        return "connected"

    def _connect_token(self, identity: TokenIdentity, port: int) -> str:
        with tempfile.NamedTemporaryFile(dir=self._directory.name, suffix=".pem") as chain:
            for der in identity.chain:
                chain.write(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
            chain.flush()
            command = [
                _GNUTLS,
                *("--provider", str(identity.module)),
                *("--x509certfile", chain.name),
                *("--x509keyfile", _key_uri(identity)),
                *("--x509cafile", str(self._ca_file)),
                *("--verify-hostname", _SERVER_NAME),
                *("--sni-hostname", _SERVER_NAME),
                *("--port", str(port)),
                _HOST,
            ]
            module = pkcs11_module(identity.module)
            try:
                # Some modules rewrite a token when somebody logs in: nobody else may start or log in meanwhile.
                with module.lock, module.exclusive():
                    # A session of its own has no terminal, so that the PIN is read from the pipe and asked for once.
                    done = subprocess.run(
                        command,
                        input=identity.pin.reveal() + b"\n",
                        capture_output=True,
                        timeout=_TIMEOUT_S,
                        start_new_session=True,
                        check=False,
                    )
            except FileNotFoundError as problem:
                raise StationFault(
                    "handshake.tool",
                    f"{_GNUTLS} is not installed",
                    hint="Install it: apt-get install gnutls-bin.",
                ) from problem
            except subprocess.TimeoutExpired as problem:
                raise StationFault(
                    "handshake.timeout",
                    f"{_GNUTLS} did not end within {_TIMEOUT_S:.0f} seconds",
                    hint="Check the token and try again.",
                ) from problem
        said = (done.stderr + done.stdout).decode("utf-8", "replace")
        if "Wrong PIN" in said or "PIN is locked" in said:
            raise Misconfigured(
                "handshake.pin",
                f"the PIN of token {identity.token} is wrong",
                hint="Check the secret that pin-source names; it was tried once only.",
                token=identity.token,
            )
        return said


def _key_uri(identity: TokenIdentity) -> str:
    return f"pkcs11:token={_quoted(identity.token)};object={_quoted(identity.key_label)};type=private"


def _quoted(text: str) -> str:
    """Percent-encode a label for a PKCS#11 URI (RFC 7512)."""
    return "".join(c if c.isascii() and c.isalnum() else "".join(f"%{o:02X}" for o in c.encode()) for c in text)


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
    # A file, not cadata: cadata reports whatever error a PKCS#11 module left behind in this thread's OpenSSL queue.
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
