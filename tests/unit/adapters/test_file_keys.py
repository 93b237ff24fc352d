"""Keys in files: what OpenSSL reads there, who may read it, and every way such a file may be spoiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from birthmark.adapters.keys.file import FileKeys
from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import spki_of

PASSPHRASE = b"canary passphrase"
URI = "file:key.pem?secret=test:"


def keys(base: Path, passphrase: bytes = PASSPHRASE) -> FileKeys:
    return FileKeys(lambda _: Secret(passphrase), base)


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pem(key: object, passphrase: bytes = PASSPHRASE) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)))  # type: ignore[attr-defined]


def failure(base: Path, uri: str = URI, *, passphrase: bytes = PASSPHRASE) -> BirthmarkError:
    """Return the error of opening; it must tell nothing of the passphrase or the key."""
    with pytest.raises(BirthmarkError) as caught:
        keys(base, passphrase).open(uri)
    assert "canary" not in f"{caught.value.document()} {caught.value!r}"
    return caught.value


@pytest.mark.parametrize("algorithm", ["p256", "p384", "ed25519", "rsa2048"])
def test_openssl_reads_the_file_with_the_passphrase_and_not_without(tmp_path: Path, algorithm: str) -> None:
    key = keys(tmp_path).generate(URI, algorithm)
    command = ["openssl", "pkey", "-in", str(tmp_path / "key.pem"), "-pubout", "-outform", "DER", "-passin"]
    environment = {**os.environ, "GOOD": PASSPHRASE.decode(), "BAD": "not the passphrase"}
    read = subprocess.run([*command, "env:GOOD"], env=environment, capture_output=True, check=True)
    assert read.stdout == spki_of(key.public_key())
    assert subprocess.run([*command, "env:BAD"], env=environment, capture_output=True).returncode != 0
    assert (tmp_path / "key.pem").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")


@pytest.mark.parametrize("algorithm", ["mldsa44", "mldsa65"])
def test_post_quantum_keys_come_back(tmp_path: Path, algorithm: str) -> None:
    made = keys(tmp_path).generate(URI, algorithm)
    assert spki_of(keys(tmp_path).open(URI).public_key()) == spki_of(made.public_key())


def test_the_passphrase_stands_in_no_process_list(tmp_path: Path) -> None:
    keys(tmp_path).generate(URI, "p256")
    keys(tmp_path).open(URI)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert PASSPHRASE not in (process / "cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    keys(tmp_path).generate(URI, "p256")
    (tmp_path / "key.pem").chmod(mode)
    problem = failure(tmp_path)
    assert (type(problem), problem.code) == (Misconfigured, "key.file.mode")


def test_new_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys(tmp_path).generate(URI, "p256")
    finally:
        os.umask(before)
    assert (tmp_path / "key.pem").stat().st_mode & 0o7777 == 0o600


def test_wrong_passphrase_is_named(tmp_path: Path) -> None:
    keys(tmp_path).generate(URI, "p256")
    assert failure(tmp_path, passphrase=b"canary wrong").code == "key.secret.wrong"


def test_plain_key_behind_a_passphrase_and_the_other_way_round(tmp_path: Path) -> None:
    """A key that is not encrypted although it should be is as wrong as a wrong passphrase."""
    plain = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    written(tmp_path / "key.pem", plain)
    assert failure(tmp_path).code == "key.secret.wrong"
    written(tmp_path / "key.pem", pem(ec.generate_private_key(ec.SECP256R1())))
    assert failure(tmp_path, "file:key.pem?secret=none").code == "key.secret.wrong"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"canary",
        b"\xff" * 400,
        b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "text", "octets", "base64", "asn1", "certificate", "public"],
)
def test_file_that_holds_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    written(tmp_path / "key.pem", content)
    assert failure(tmp_path).code == "key.file.malformed"


def test_every_cut_of_a_key_file_ends_in_an_error_of_ours(tmp_path: Path) -> None:
    content = pem(ec.generate_private_key(ec.SECP256R1()))
    for length in range(0, len(content) - 1, 7):
        written(tmp_path / "key.pem", content[:length])
        assert failure(tmp_path).code in ("key.file.malformed", "key.secret.wrong"), length


@pytest.mark.parametrize("kind", ["p521", "rsa1024", "dsa", "x25519"])
def test_key_of_a_kind_that_is_not_used_is_refused(tmp_path: Path, kind: str) -> None:
    made = {
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "rsa1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505
        "dsa": lambda: dsa.generate_private_key(2048),
        "x25519": x25519.X25519PrivateKey.generate,
    }[kind]()
    written(tmp_path / "key.pem", pem(made))
    assert failure(tmp_path).code == "key.algorithm.unsupported"


def test_missing_key_and_directory_in_its_place_are_named(tmp_path: Path) -> None:
    assert failure(tmp_path).code == "key.file.missing"
    (tmp_path / "key.pem").mkdir(mode=0o700)
    assert failure(tmp_path).code == "key.file.malformed"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "file:",
        "file:key.pem",
        "file:?secret=none",
        "file:key.pem?secret=none&secret=none",
        "file:key.pem?secret=none&mode=0644",
        "file:key.pem?password=canary",
        "pkcs11:key.pem?secret=none",
        "key.pem?secret=none",
        "file:key%00.pem?secret=none",
    ],
)
def test_uri_that_is_not_understood_is_refused(tmp_path: Path, uri: str) -> None:
    assert failure(tmp_path, uri).code == "key.uri"


def test_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    keys(tmp_path).generate(URI, "p256")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(Refused) as caught:
        keys(tmp_path).generate(URI, "p384")
    assert caught.value.code == "key.exists"
    assert (tmp_path / "key.pem").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_unknown_algorithm_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        keys(tmp_path).generate(URI, "p521")
    assert caught.value.code == "key.algorithm.unsupported"
    assert list(tmp_path.iterdir()) == []


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StationFault) as caught:
        keys(tmp_path).generate("file:nowhere/key.pem?secret=none", "p256")
    assert caught.value.code == "storage.missing"


# As root, permissions stop nobody: the program steps down first. It stands in the directory, so the way there is open.
LIMITED = """
import os, resource, signal, sys
from pathlib import Path
from birthmark.adapters.keys.file import FileKeys
from birthmark.errors import BirthmarkError
from birthmark.model.secret import Secret
keys = FileKeys(lambda _: Secret(b"passphrase"), Path("."))
if sys.argv[1] == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
elif os.getuid() == 0:
    os.setuid(65534)
try:
    keys.generate("file:key.pem?secret=test:", "rsa2048")
except BirthmarkError as problem:
    print(problem.code)
"""


@pytest.mark.parametrize(("limit", "code"), [("full", "storage.failed"), ("read-only", "storage.read_only")])
def test_key_that_cannot_be_written_leaves_nothing(tmp_path: Path, limit: str, code: str) -> None:
    tmp_path.chmod(0o700 if limit == "full" else 0o555)
    ran = subprocess.run([sys.executable, "-c", LIMITED, limit], cwd=tmp_path, capture_output=True, text=True)
    tmp_path.chmod(0o700)
    assert (ran.stdout.strip(), ran.stderr) == (code, "")
    assert list(tmp_path.iterdir()) == []
