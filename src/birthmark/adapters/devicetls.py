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
from birthmark.adapters.tlsclient import (
    ClientKey,
    open_client,
    pem_of,
    positive,
    tls_context,
    untrusted,
)
from birthmark.errors import DeviceFault, Misconfigured
from birthmark.model.secret import Secret
from birthmark.pki.certread import UNREADABLE
from birthmark.ports.admission import KeyHolder, TlsServer, TlsStream

__all__ = ["FileIdentity", "HeldIdentity", "TokenIdentity"]

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
        context = tls_context(server)
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
        context = tls_context(server)
        key = load_der_private_key(self.private_key.reveal(), None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        descriptor = os.memfd_create("device", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(pem + pem_of(self.chain))
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
        with ExitStack() as held:
            # Some modules rewrite a token when somebody logs in: nobody else starts one or logs in until we are done.
            module = pkcs11_module(self.module)
            held.enter_context(module.lock)
            held.enter_context(module.exclusive())
            pin = _readable(self.pin.reveal())
            try:
                uri = f"{_key_uri(self)};pin-source=/dev/fd/{pin}"
                key = ClientKey(str(self.module), uri, self._require_pin, descriptors=(pin,))
                return open_client(server, self.chain, key, held.pop_all())
            finally:
                os.close(pin)

    def _require_pin(self, said: str) -> None:
        if "provided PIN" in said or "PIN is locked" in said:
            raise Misconfigured(
                "handshake.pin",
                f"the PIN of token {self.token} is wrong",
                hint="Check the secret that pin-source names; it was tried once only.",
                token=self.token,
            )


class _SslStream:
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection

    def send(self, data: bytes, seconds: float) -> None:
        self._connection.settimeout(positive(seconds))
        self._connection.sendall(data)

    def receive(self, most: int, seconds: float) -> bytes:
        self._connection.settimeout(positive(seconds))
        return self._connection.recv(most)

    def close(self) -> None:
        self._connection.close()


def _readable(data: bytes) -> int:
    """Return a descriptor from which ``data`` can be read, once."""
    readable, writable = os.pipe()
    try:
        os.write(writable, data)
    finally:
        os.close(writable)
    return readable


def _opened(context: ssl.SSLContext, server: TlsServer, seconds: float) -> _SslStream:
    with ExitStack() as made:
        raw = socket.create_connection((server.host, server.port), timeout=positive(seconds))
        made.callback(raw.close)
        try:
            connection = context.wrap_socket(raw, server_hostname=server.name)
        except ssl.SSLCertVerificationError as problem:
            raise untrusted(server, problem.verify_message) from problem
        made.pop_all()
    return _SslStream(connection)


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
