"""SoftHSM tokens that stand for devices, and what `pkcs11-tool` sees in them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from birthmark.adapters.pkcs11_module import pkcs11_module

__all__ = ["MODULE", "PIN", "make_token", "token_listing", "token_objects"]

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4321"


@cache
def _configure() -> None:
    """SoftHSM reads its configuration once in a process, so all tests of a run share one directory."""
    if "SOFTHSM2_CONF" not in os.environ:
        directory = Path(tempfile.mkdtemp(prefix="birthmark-tokens-"))
        (directory / "tokens").mkdir()
        configuration = directory / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {directory / 'tokens'}\n"
            "objectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
        )
        os.environ["SOFTHSM2_CONF"] = str(configuration)


def make_token(label: str) -> None:
    """Make an empty token; the library in this process sees it at its next use."""
    _configure()
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "87654321", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)
    pkcs11_module(MODULE).stop()


def token_listing(label: str, *arguments: str) -> str:
    """Return what `pkcs11-tool` prints when it is logged in."""
    command = ["pkcs11-tool", "--module", MODULE, "--token-label", label, "--login", "--pin", PIN, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def token_objects(label: str) -> list[str]:
    """Return every object as its own paragraph of `pkcs11-tool -O`, sorted."""
    objects: list[list[str]] = []
    for line in token_listing(label, "-O").splitlines():
        if line.startswith(" "):
            objects[-1].append(line.strip())
        else:
            objects.append([line])
    return sorted("\n".join(one) for one in objects)
