"""A private SoftHSM2: its tokens live in a directory of the test, under a configuration of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from birthmark.adapters.pkcs11_module import pkcs11_module

__all__ = ["MODULE", "PIN", "SO_PIN", "PinnedFunction", "SoftHsm", "fresh_hsm"]

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "canary-pin-4711"
SO_PIN = "officer-0815"

_CONFIGURATION = """directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


class SoftHsm:
    """Makes tokens below ``directory``. The library reads ``SOFTHSM2_CONF`` when it starts: set ``environment``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "softhsm2.conf"
        tokens = directory / "tokens"
        tokens.mkdir(parents=True)
        self.configuration.write_text(_CONFIGURATION.format(tokens=tokens))

    @property
    def environment(self) -> dict[str, str]:
        """What the library and the tools need in their environment."""
        return {"SOFTHSM2_CONF": str(self.configuration)}

    def make_token(self, label: str, *, pin: str = PIN) -> None:
        """Make a token with a user PIN."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", pin]
        self.run(*command)

    def wipe_token(self, label: str, *, pin: str = PIN) -> None:
        """Initialise a token again: its objects are gone, its label and PIN are as they were."""
        command = ["softhsm2-util", "--init-token", "--token", label, "--label", label, "--so-pin", SO_PIN]
        self.run(*command, "--pin", pin)

    def delete_token(self, label: str) -> None:
        """Remove a token: it is unplugged."""
        self.run("softhsm2-util", "--delete-token", "--token", label)

    def run(self, *command: str) -> str:
        """Run a tool on these tokens and return what it prints."""
        environment = {**os.environ, **self.environment}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{command[0]}: {ran.stdout}{ran.stderr}"
        return ran.stdout + ran.stderr

    def uri(self, token: str, name: str | None, *, key_id: bytes | None = None, pin_source: str = "env:PIN") -> str:
        """Return the URI of a key."""
        path = f"token={quote(token)}"
        if name is not None:
            path += f";object={quote(name)}"
        if key_id is not None:
            path += ";id=" + "".join(f"%{octet:02x}" for octet in key_id)
        return f"pkcs11:{path}?module-path={MODULE}&pin-source={quote(pin_source)}"


@contextmanager
def fresh_hsm(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsm]:
    """Yield tokens of this process, one named ``ca`` among them: the library starts with them, and ends after them."""
    module = pkcs11_module(MODULE)
    module.stop()
    made = SoftHsm(directory)
    made.make_token("ca")
    monkeypatch.setenv("SOFTHSM2_CONF", made.environment["SOFTHSM2_CONF"])
    yield made
    assert not module.logins, "a test left a token open"
    module.stop()


class _FunctionList(ctypes.Structure):
    """The start of CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h): a version, then pointers in a fixed order."""

    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68))


class PinnedFunction:
    """Puts a function of ours into the library's own table, for errors that SoftHSM2 never gives (CKR_PIN_LOCKED).

    The table is the one that the binding calls through; the library is otherwise untouched. Run it in a process of
    its own. ``count``: how often the function was called.
    """

    C_CLOSE_ALL_SESSIONS = 14
    C_LOGIN = 18
    C_SIGN_INIT = 42

    def __init__(self, index: int, returns: int) -> None:
        self.count = 0
        library = ctypes.CDLL(str(MODULE))
        table = ctypes.POINTER(_FunctionList)()
        assert library.C_GetFunctionList(ctypes.byref(table)) == 0

        def function(*_: object) -> int:
            self.count += 1
            return returns

        kind = ctypes.CFUNCTYPE(ctypes.c_ulong, *(ctypes.c_void_p,) * 4)
        self._kept = kind(function)
        address = ctypes.cast(self._kept, ctypes.c_void_p)
        table.contents.functions[index] = address.value
