"""One key of ours as a token of another program: OpenSC signs with it, OpenSSL verifies, strangers get nothing."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.adapters.pkcs11_remote import MODULE, RemoteKey

WAIT_S = 10.0
HELLO = struct.pack(">I", 41) + b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
BY_SIZE: dict[int, hashes.HashAlgorithm] = {32: hashes.SHA256(), 48: hashes.SHA384()}


class SoftKey:
    """Signs as a TPM would, and keeps what it was asked for."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self.asked: list[tuple[bytes, str]] = []

    def __call__(self, digest: bytes, hash_name: str, remaining: Callable[[], float]) -> bytes:
        assert remaining() > 0
        self.asked.append((digest, hash_name))
        if isinstance(self.key, rsa.RSAPrivateKey):
            kind = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[hash_name]
            return self.key.sign(digest, padding.PKCS1v15(), utils.Prehashed(kind))
        size = self.key.key_size // 8
        r, s = utils.decode_dss_signature(self.key.sign(digest, ec.ECDSA(utils.Prehashed(BY_SIZE[size]))))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")


@contextmanager
def shown(place: Path, soft: SoftKey) -> Iterator[Path]:
    """Serve the key at a socket, as whoever waits for the client does, until the client is gone."""
    path = place / "key"
    remote = RemoteKey(path, soft.key.public_key(), soft)

    def serve() -> None:
        while (asks := remote.fileno()) >= 0:
            assert select.select([asks], [], [], WAIT_S)[0]
            remote.serve(lambda: WAIT_S)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        thread.join(2 * WAIT_S)
        assert not thread.is_alive()
        remote.close()


def module() -> str:
    (found,) = Path("/usr/lib").rglob(MODULE)
    return str(found)


def signed(place: Path, soft: SoftKey, mechanism: str, data: bytes) -> bytes:
    """Return the signature that OpenSC's tool gets for ``data``."""
    (place / "data").write_bytes(data)
    with shown(place, soft) as path:
        subprocess.run(
            ["pkcs11-tool", "--module", module(), "--sign", "--mechanism", mechanism, "--label", "key",
             "-i", place / "data", "-o", place / "sig", "--signature-format", "openssl"],
            env={**os.environ, "P11_KIT_SERVER_ADDRESS": f"unix:path={path}"},
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
    return (place / "sig").read_bytes()


def openssl_verifies(place: Path, key: Any, digest: bytes, signature: bytes, *options: str) -> None:
    (place / "pub.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (place / "digest").write_bytes(digest)
    (place / "signature").write_bytes(signature)
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-in", "digest", "-sigfile", "signature",
         *(part for option in options for part in ("-pkeyopt", option))],
        cwd=place, check=True, capture_output=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_a_digest_of_any_length_is_signed_as_the_standard_says(
    tmp_path: Path, curve: ec.EllipticCurve, name: str
) -> None:
    soft = SoftKey(ec.generate_private_key(curve))
    digest = hashlib.new(name, b"a transcript").digest()
    signature = signed(tmp_path, soft, "ECDSA", digest)
    openssl_verifies(tmp_path, soft.key, digest, signature)
    assert len(soft.asked) == 1
    assert len(soft.asked[0][0]) == curve.key_size // 8


def test_an_rsa_key_signs_digest_infos_and_nothing_else(tmp_path: Path) -> None:
    soft = SoftKey(rsa.generate_private_key(65537, 2048))
    digest = hashlib.sha256(b"a transcript").digest()
    info = bytes.fromhex("3031300d060960864801650304020105000420") + digest
    openssl_verifies(tmp_path, soft.key, digest, signed(tmp_path, soft, "RSA-PKCS", info), "digest:sha256")
    assert soft.asked == [(digest, "sha256")]
    (tmp_path / "again").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        signed(tmp_path / "again", soft, "RSA-PKCS", b"not a DigestInfo")
    assert len(soft.asked) == 1


def sent(place: Path, soft: SoftKey, data: bytes) -> bytes:
    """Return what a stranger gets who connects, sends octets and waits."""
    with shown(place, soft) as path, socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(WAIT_S)
        stranger.connect(str(path))
        got = b""
        with suppress(ConnectionError):  # the end, with octets of ours that nobody wanted
            stranger.sendall(data)
            stranger.shutdown(socket.SHUT_WR)
            while part := stranger.recv(4096):
                got += part
    return got


def message(call: int, arguments: bytes) -> bytes:
    body = struct.pack(">II", call, 1) + b"u" + arguments
    return struct.pack(">III", 1, 0, len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" + struct.pack(">III", 1, 0, 0xFFFFFFFF),
        b"\0" + struct.pack(">III", 1, 0xFFFFFFFF, 0),
        b"\0" + struct.pack(">III", 1, 0, 4) + b"\0\0",
        b"\0" + message(1, b"\1" + struct.pack(">I", 5) + b"hello"),
        b"\0" + message(24, bytes(16) + struct.pack(">I", 0xFFFFFFF0)),
        b"\0" + message(26, bytes(8) + struct.pack(">I", 3) + bytes(14)),
        b"\0" + message(43, bytes(8)),
    ],
)
def test_what_is_no_message_ends_the_connection_and_signs_nothing(tmp_path: Path, data: bytes) -> None:
    soft = SoftKey(ec.generate_private_key(ec.SECP256R1()))
    assert sent(tmp_path, soft, data) == data[:1]
    assert soft.asked == []


def test_an_unknown_call_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    soft = SoftKey(ec.generate_private_key(ec.SECP256R1()))
    got = sent(tmp_path, soft, b"\0" + message(65, b"") + message(1, b"\1" + HELLO))
    refused = struct.pack(">II", 0, 1) + b"u" + struct.pack(">Q", 0x54)
    assert got[1:].startswith(struct.pack(">III", 1, 0, len(refused)) + refused)
    assert got.endswith(struct.pack(">II", 1, 0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 70), st.binary(max_size=60)), max_size=4), st.binary(max_size=20))
def test_whatever_a_stranger_says_he_gets_an_answer_or_the_end(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, bytes]], rest: bytes
) -> None:
    place = tmp_path_factory.mktemp("k")
    said = b"\0" + b"".join(message(call, arguments) for call, arguments in calls) + rest
    assert sent(place, SoftKey(KEY), said)[:1] == b"\0"


KEY = ec.generate_private_key(ec.SECP256R1())
