"""Secrets by reference: where they are found, that nobody is asked twice, and that nothing shows them."""

from __future__ import annotations

import os
import pickle
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from birthmark.errors import Misconfigured
from birthmark.shell.workspace.secrets import SecretsResolver

CANARY = "canary-91c4"


def private_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def refused(reference: str) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        SecretsResolver()(reference)
    return caught.value


def test_the_environment_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PIN", CANARY)
    secrets = SecretsResolver()
    assert secrets("env:TEST_PIN").reveal() == CANARY.encode()
    monkeypatch.delenv("TEST_PIN")
    assert secrets("env:TEST_PIN").reveal() == CANARY.encode()
    assert secrets.resolved() == {"env:TEST_PIN": CANARY.encode()}


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_file_ends_before_its_line_break(tmp_path: Path, ending: bytes) -> None:
    path = private_file(tmp_path / "pin", b" two words " + ending)
    assert SecretsResolver()(f"file:{path}").reveal() == b" two words "


def test_a_descriptor_is_read_once_and_closed() -> None:
    reading, writing = os.pipe()
    os.write(writing, CANARY.encode() + b"\n")
    os.close(writing)
    secrets = SecretsResolver()
    assert secrets(f"fd:{reading}").reveal() == CANARY.encode()
    assert secrets(f"fd:{reading}").reveal() == CANARY.encode()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_a_person_is_asked_once_and_sees_nothing_of_the_answer() -> None:
    """On a real terminal: the echo would come back on its master side."""
    program = (
        "from birthmark.shell.workspace.secrets import SecretsResolver\n"
        "secrets = SecretsResolver()\n"
        "first, second = secrets('prompt:PIN of ca'), secrets('prompt:PIN of ca')\n"
        f"print('same' if first is second and first.reveal() == b'{CANARY}' else 'other')\n"
    )
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as process:
        os.close(terminal)
        shown = b""
        while b"PIN of ca: " not in shown:
            shown += os.read(master, 1024)
        os.write(master, CANARY.encode() + b"\n")
        while b"same" not in shown and b"other" not in shown:
            shown += os.read(master, 1024)
    os.close(master)
    assert process.returncode == 0
    assert b"same" in shown
    assert shown.count(b"PIN of ca: ") == 1
    assert CANARY.encode() not in shown


def test_nobody_is_asked_where_no_terminal_is() -> None:
    program = "from birthmark.shell.workspace.secrets import SecretsResolver; SecretsResolver()('prompt:')"
    result = subprocess.run([sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert "secret.no_tty" in result.stderr


@pytest.mark.parametrize("reference", [CANARY, "", ":", f"pass:{CANARY}", f"ENV:{CANARY}", f"//{CANARY}"])
def test_a_value_in_place_of_a_reference_is_refused_and_not_repeated(reference: str) -> None:
    problem = refused(reference)
    assert problem.code == "secret.reference"
    assert CANARY not in str(problem.document())


def test_an_empty_variable_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PIN", "")
    assert refused("env:TEST_PIN").code == "secret.missing"
    assert refused("env:TEST_PIN_THAT_IS_NOT_THERE").code == "secret.missing"


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * (64 * 1024 + 1)], ids=["empty", "a line break", "too long"])
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refused(f"file:{private_file(tmp_path / 'pin', content)}").code == "secret.empty"


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    problem = refused(f"file:{private_file(tmp_path / 'pin', CANARY.encode(), 0o640)}")
    assert problem.code == "key.file.mode"
    assert CANARY not in str(problem.document())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    problem = refused(f"file:{tmp_path / 'nowhere'}")
    assert problem.code == "key.file.missing"
    assert problem.facts["path"] == str(tmp_path / "nowhere")


@pytest.mark.parametrize("number", ["", "x", "-1", "999999", "3.5"])
def test_a_descriptor_that_is_not_open_is_refused(number: str) -> None:
    assert refused(f"fd:{number}").code == "secret.descriptor"


def test_an_empty_descriptor_is_no_secret() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    assert refused(f"fd:{reading}").code == "secret.empty"


def test_the_resolver_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PIN", CANARY)
    secrets = SecretsResolver()
    secret = secrets("env:TEST_PIN")
    assert CANARY not in f"{secrets!r} {secret!r} {secret}"
    with pytest.raises(TypeError):
        pickle.dumps(secrets)
