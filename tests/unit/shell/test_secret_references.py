"""Odd references to secrets, and people who type nothing."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from birthmark.errors import Misconfigured
from birthmark.shell.workspace.secrets import SecretsResolver

_CANARY = "canary-secret-1234"


def _refusal(reference: str) -> Misconfigured:
    with pytest.raises(Misconfigured) as raised:
        SecretsResolver()(reference)
    return raised.value


@pytest.mark.parametrize("number", ["", "x", "-1", "999999", "99999999999999999999"])
def test_a_descriptor_that_is_none(number: str):
    assert _refusal(f"fd:{number}").code == "secret.descriptor"


@pytest.mark.parametrize("reference", ["env:", "env:NOT_SET_ANYWHERE", "env:A=B", "env:\0"])
def test_an_environment_without_it(reference: str):
    assert _refusal(reference).code == "secret.missing"


_PROMPT = """
from birthmark.errors import Misconfigured
from birthmark.shell.workspace.secrets import SecretsResolver
secrets = SecretsResolver()
try:
    first, second = (len(secrets("prompt:PIN of the CA").reveal()) for _ in range(2))
    print("lengths", first, second)
except Misconfigured as error:
    print(error.code)
"""


@pytest.mark.parametrize(
    ("typed", "answer"),
    [(_CANARY + "\n", f"lengths {len(_CANARY)} {len(_CANARY)}"), ("\n", "secret.empty"), ("\x04", "secret.no_tty")],
)
def test_a_person_is_asked_once_and_nothing_is_echoed(typed: str, answer: str):
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", _PROMPT])  # noqa: S606
    shown = b""
    while b"PIN of the CA: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, typed.encode())
    shown += _rest(terminal)
    assert os.waitpid(child, 0)[1] == 0
    os.close(terminal)
    assert answer in shown.decode()
    assert shown.count(b"PIN of the CA: ") == 1
    assert _CANARY.encode() not in shown


def _rest(terminal: int) -> bytes:
    found = b""
    while True:
        try:
            piece = os.read(terminal, 1024)
        except OSError:  # the other end is closed
            return found
        if not piece:
            return found
        found += piece
