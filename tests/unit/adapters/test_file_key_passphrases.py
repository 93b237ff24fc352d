"""Passphrases of key files, and two who make one key at once."""

from __future__ import annotations

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from birthmark.adapters.keys.file import FileKeys
from birthmark.errors import BirthmarkError, Misconfigured, Refused
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import ALGORITHMS, algorithm_of

_PASSPHRASE = b"canary passphrase"
_URI = "file:one.pem?secret=env:PASS"


def _keys(base: Path, passphrase: bytes = _PASSPHRASE) -> FileKeys:
    return FileKeys(lambda reference: Secret(passphrase), base)


def _refusal(base: Path, uri: str = _URI, passphrase: bytes = _PASSPHRASE) -> BirthmarkError:
    with pytest.raises(BirthmarkError) as raised:
        _keys(base, passphrase).open(uri)
    assert passphrase.decode(errors="replace") not in f"{raised.value!r}{raised.value.document()}" or not passphrase
    return raised.value


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_is_kept_encrypted_and_comes_back(tmp_path: Path, algorithm: str):
    made = _keys(tmp_path).generate(_URI, algorithm)
    opened = _keys(tmp_path).open(_URI)
    assert opened.public_key() == made.public_key()
    assert algorithm_of(opened.public_key()).name == algorithm
    path = tmp_path / "one.pem"
    assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["one.pem"]


def test_a_file_that_openssl_closed_with_scrypt_is_opened(tmp_path: Path):
    made = _keys(tmp_path).generate("file:plain.pem?secret=none", "p256")
    command = ["openssl", "pkcs8", "-topk8", "-scrypt", "-in", tmp_path / "plain.pem", "-out", tmp_path / "one.pem"]
    environment = {**os.environ, "PASS": _PASSPHRASE.decode()}
    subprocess.run([*command, "-passout", "env:PASS"], env=environment, check=True)
    (tmp_path / "one.pem").chmod(0o600)
    assert _keys(tmp_path).open(_URI).public_key() == made.public_key()


def test_no_secret_is_asked_for_when_none_is_said(tmp_path: Path):
    def nobody(reference: str) -> Secret:
        raise AssertionError(reference)

    keys = FileKeys(nobody, tmp_path)
    made = keys.generate("file:one.pem?secret=none", "p256")
    assert keys.open("file:one.pem?secret=none").public_key() == made.public_key()
    assert (tmp_path / "one.pem").read_text().startswith("-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize(
    ("passphrase", "code"),
    [
        (b"another", "key.secret.wrong"),
        (b"\xff\0", "key.secret.wrong"),
        (b"", "secret.length"),
        (b"x" * 1024, "secret.length"),
    ],
)
def test_a_wrong_passphrase(tmp_path: Path, passphrase: bytes, code: str):
    _keys(tmp_path).generate(_URI, "p256")
    error = _refusal(tmp_path, passphrase=passphrase)
    assert isinstance(error, Misconfigured)
    assert error.code == code


@pytest.mark.parametrize("length", [1, 1023])
def test_passphrases_of_any_lawful_length(tmp_path: Path, length: int):
    keys = _keys(tmp_path, b"x" * length)
    assert keys.generate(_URI, "p256").public_key() == keys.open(_URI).public_key()


@pytest.mark.parametrize("passphrase", [b"", b"x" * 1024])
def test_a_passphrase_that_cannot_be_used_makes_no_file(tmp_path: Path, passphrase: bytes):
    with pytest.raises(Misconfigured) as raised:
        _keys(tmp_path, passphrase).generate(_URI, "p256")
    assert raised.value.code == "secret.length"
    assert os.listdir(tmp_path) == []


def test_every_truncation_of_a_key_file_is_called_malformed(tmp_path: Path):
    _keys(tmp_path).generate(_URI, "p256")
    path = tmp_path / "one.pem"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        assert _refusal(tmp_path).code == "key.file.malformed"


def test_two_at_once_make_one_key(tmp_path: Path):
    def make(_: int) -> object:
        try:
            return _keys(tmp_path).generate(_URI, "p256").public_key()
        except Refused as refused:
            return refused.code

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(make, range(16)))
    assert answers.count("key.exists") == 15
    assert _keys(tmp_path).open(_URI).public_key() in answers
