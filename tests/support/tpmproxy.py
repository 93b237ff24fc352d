"""Somebody between a station and a TPM: passes commands on, and changes what it was told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from support.devicepki import pool_credential

__all__ = ["LIES", "TpmProxy"]

_SIGN, _NV_WRITE, _NV_DEFINE = 0x15D, 0x137, 0x12A
_DONE = bytes.fromhex("80020000001300000000000000000000010000")
"""A response without parameters to a command with a password."""

Pass = Callable[[bytes], bytes]
Lie = Callable[[bytes, Pass], bytes]


class TpmProxy:
    """Listens on a port of its own. ``lie``: None, or what answers in the place of the TPM."""

    def __init__(self, port: int) -> None:
        self.lie: Lie | None = None
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.tcti = f"swtpm:host=127.0.0.1,port={self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, name="tpm-proxy", daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(("127.0.0.1", self._port)) as tpm:
                    self._converse(client, tpm)

    def _converse(self, client: socket.socket, tpm: socket.socket) -> None:
        def ask(command: bytes) -> bytes:
            tpm.sendall(command)
            return _whole(tpm)

        while command := _whole(client):
            lie = self.lie
            client.sendall(ask(command) if lie is None else lie(command, ask))


def _whole(link: socket.socket) -> bytes:
    data = b""
    while len(data) < 10 or len(data) < int.from_bytes(data[2:6], "big"):
        more = link.recv((10 if len(data) < 10 else int.from_bytes(data[2:6], "big")) - len(data))
        if not more:
            return b""
        data += more
    return data


def _code(command: bytes) -> int:
    return int.from_bytes(command[6:10], "big")


def _stores_nothing(command: bytes, ask: Pass) -> bytes:
    return _DONE if _code(command) == _NV_WRITE else ask(command)


class _OtherCertificate:
    """Writes a certificate of somebody else, of the same length, into the index of the device certificate."""

    def __init__(self, index: int) -> None:
        self._index = index.to_bytes(4, "big")
        self._other = b""

    def __call__(self, command: bytes, ask: Pass) -> bytes:
        if _code(command) == _NV_DEFINE and self._index in command:
            size = int.from_bytes(command[-2:], "big")
            while len(self._other) != size:
                self._other = pool_credential("SN-0001").certificate
        if _code(command) == _NV_WRITE and command[14:18] == self._index:
            start = 22 + int.from_bytes(command[18:22], "big")
            size, offset = int.from_bytes(command[start : start + 2], "big"), int.from_bytes(command[-2:], "big")
            command = command[: start + 2] + self._other[offset : offset + size] + command[-2:]
        return ask(command)


class _OtherKey:
    """Answers a request for an ECDSA signature with one by a key of its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def __call__(self, command: bytes, ask: Pass) -> bytes:
        if _code(command) != _SIGN:
            return ask(command)
        start = 18 + int.from_bytes(command[14:18], "big")
        digest = command[start + 2 : start + 34]
        assert len(digest) == sha256().digest_size
        numbers = decode_dss_signature(self._key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
        parts = b"".join(b"\0\x20" + number.to_bytes(32, "big") for number in numbers)
        parameters = bytes.fromhex("0018000b") + parts
        body = len(parameters).to_bytes(4, "big") + parameters + bytes.fromhex("0000010000")
        return b"\x80\x02" + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body


LIES: dict[str, Callable[[int], Lie]] = {
    "stores nothing": lambda index: _stores_nothing,
    "other certificate": _OtherCertificate,
    "other key": lambda index: _OtherKey(),
}
"""Name → function from the NV index of the device certificate to the lie."""
