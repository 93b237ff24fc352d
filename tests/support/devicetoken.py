"""SoftHSM tokens that stand for devices, and what `pkcs11-tool` sees in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from birthmark.adapters.pkcs11_module import pkcs11_module
from support.softhsm import MODULE, PIN, SO_PIN, SoftHsm

__all__ = ["make_token", "start_tokens", "token_listing", "token_objects"]


def start_tokens(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this test tokens of its own; the library reads its configuration at its next start."""
    for name, value in SoftHsm(directory).environment.items():
        monkeypatch.setenv(name, value)
    pkcs11_module(MODULE).stop()


def make_token(label: str) -> None:
    """Make an empty token; the library in this process sees it at its next start."""
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN]
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
