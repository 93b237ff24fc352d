"""Simulated secure elements: one SoftHSM2 token a device, in the demo's own directory."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from birthmark.errors import StationFault

__all__ = ["MAGAZINE", "MODULE", "make_tokens", "softhsm_is_here", "use_tokens"]

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
MAGAZINE = 10
"""Tokens that are plugged in at once: GnuTLS, which makes the TLS connections, sees at most 48 slots."""
_CONFIGURATION = """directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


def softhsm_is_here() -> bool:
    """Tell whether SoftHSM2 and its Python binding are installed."""
    from importlib.util import find_spec

    return MODULE.exists() and shutil.which("softhsm2-util") is not None and find_spec("pkcs11") is not None


def make_tokens(directory: Path, labels: Sequence[str], pin: str) -> None:
    """Make a token for each label below ``directory``, and use them.

    It happens in a process of its own: a PKCS#11 module is started once in a process, by whoever owns the tokens.
    """
    tokens = directory / "tokens"
    tokens.mkdir(parents=True, mode=0o700)
    configuration = directory / "softhsm2.conf"
    configuration.write_text(_CONFIGURATION.format(tokens=tokens.resolve()))
    use_tokens(directory)
    maker = multiprocessing.get_context("spawn").Process(target=_make_all, args=(list(labels), pin))
    maker.start()
    maker.join()
    if maker.exitcode != 0:
        raise StationFault(
            "demo.tokens",
            "the simulated secure elements could not be made",
            hint="Check that softhsm2-util runs, or remove SoftHSM2: the demo then uses files only.",
        )


def use_tokens(directory: Path) -> None:
    """Plug in the tokens below ``directory`` and unplug any others."""
    from birthmark.adapters.pkcs11_module import pkcs11_module

    pkcs11_module(MODULE).stop()
    os.environ["SOFTHSM2_CONF"] = str((directory / "softhsm2.conf").resolve())


def _make_all(labels: list[str], pin: str) -> None:
    import pkcs11

    # softhsm2-util takes PINs as arguments only; the one it gets is replaced before anything is kept in the token.
    first = {label: os.urandom(8).hex() for label in labels}
    for label in labels:
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", os.urandom(8).hex()]
        subprocess.run([*command, "--pin", first[label]], check=True, capture_output=True)
    library = pkcs11.lib(str(MODULE))
    for label in labels:
        with library.get_token(token_label=label).open(rw=True, user_pin=first[label]) as session:
            session.set_pin(first[label], pin)
