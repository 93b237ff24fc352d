"""Cosignatures: the C2SP example, an implementation that is not ours, and what a liar may try."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered
from birthmark.tlog.checkpoint import Checkpoint, sign
from birthmark.tlog.cosignature import (
    cosign,
    cosigned_message,
    encode_cosigner,
    open_cosignatures,
    parse_cosigner,
)
from birthmark.tlog.note import encode_vkey, parse_signature, parse_vkey, public_octets

# The example of c2sp.org/tlog-cosignature.
BODY = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
LINE = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+m"
    "bIUBkBIfZ+qnA=="
)
NOW = 1679315147
NAME = "witness.example.com/w1"


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def note() -> str:
    return sign(Checkpoint("log.example/one", 7, bytes(32)), Ed25519PrivateKey.generate())


def test_the_message_and_the_layout_are_those_of_the_specification() -> None:
    assert cosigned_message(BODY, NOW).decode() == f"cosignature/v1\ntime {NOW}\n{BODY}"
    name, identity, signature = parse_signature(LINE)
    assert (name, identity.hex(), len(signature)) == (NAME, "8d66cf3f", 72)
    assert int.from_bytes(signature[:8], "big") == NOW


def test_the_key_id_says_that_it_is_a_cosignature(key: Ed25519PrivateKey) -> None:
    vkey = encode_cosigner(NAME, public_octets(key))
    assert parse_cosigner(vkey).public == public_octets(key)
    with pytest.raises(Misconfigured):
        parse_vkey(vkey)
    with pytest.raises(Misconfigured):
        parse_cosigner(encode_vkey(NAME, public_octets(key)))
    with pytest.raises(Misconfigured):
        parse_cosigner(vkey.replace("w1", "w2"))


def test_openssl_verifies_what_we_cosign(key: Ed25519PrivateKey, note: str, tmp_path: Path) -> None:
    body = note.partition("\n\n")[0] + "\n"
    line = cosign(body, NAME, key, timestamp=NOW)
    _, _, raw = parse_signature(line.rstrip("\n"))
    assert base64.b64decode(line.split(" ")[2])[4:12] == NOW.to_bytes(8, "big")
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name, data in (("key", pem), ("sig", raw[8:]), ("message", f"cosignature/v1\ntime {NOW}\n{body}".encode())):
        (tmp_path / name).write_bytes(data)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-rawin", "-in", "message"]
    done = subprocess.run([*command, "-sigfile", "sig"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "message").write_bytes(body.encode())
    assert subprocess.run([*command, "-sigfile", "sig"], cwd=tmp_path, capture_output=True, check=False).returncode


def test_a_cosignature_is_for_one_checkpoint_one_time_and_one_name(key: Ed25519PrivateKey, note: str) -> None:
    witness = parse_cosigner(encode_cosigner(NAME, public_octets(key)))
    body = note.partition("\n\n")[0] + "\n"
    line = cosign(body, NAME, key, timestamp=NOW)
    found = open_cosignatures(note + line, [witness])[1]
    assert [(one.key, one.timestamp) for one in found] == [(witness, NOW)]
    assert open_cosignatures(note, [witness])[1] == ()
    other = open_cosignatures(note + line.replace("w1", "w2"), [witness])
    assert other[1] == ()
    with pytest.raises(Tampered) as caught:
        open_cosignatures(note.replace("\n7\n", "\n8\n") + line, [witness])
    assert caught.value.code == "witness.cosignature"
    octets = bytearray(base64.b64decode(line.split(" ")[2]))
    octets[11] ^= 1
    later = f"— {NAME} {base64.b64encode(octets).decode()}\n"
    with pytest.raises(Tampered):
        open_cosignatures(note + later, [witness])


def test_a_note_signature_by_the_same_key_is_no_cosignature(key: Ed25519PrivateKey) -> None:
    head = Checkpoint(NAME, 7, bytes(32))
    witness = parse_cosigner(encode_cosigner(NAME, public_octets(key)))
    assert open_cosignatures(sign(head, key), [witness])[1] == ()


@pytest.mark.parametrize("timestamp", [-1, 1 << 63])
def test_a_time_out_of_range_is_not_signed(key: Ed25519PrivateKey, timestamp: int) -> None:
    with pytest.raises(Refused):
        cosign(BODY, NAME, key, timestamp=timestamp)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"a\n\n\xe2\x80\x94 x y\n", b"\xff"])
def test_what_is_no_note_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BirthmarkError):
        open_cosignatures(data, [])
