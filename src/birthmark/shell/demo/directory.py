"""Where a demo lives: a directory that only a demo ever replaces."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from birthmark.errors import Refused

__all__ = ["prepare_directory", "write_secret"]

_MARK = ".birthmark-demo"


def prepare_directory(directory: Path) -> None:
    """Make room for the demo; only a directory that an earlier demo made is ever replaced."""
    if directory.exists():
        if not (directory / _MARK).exists():
            raise Refused(
                "demo.directory",
                f"{directory} exists and was not made by the demo",
                hint="Name another directory with --directory.",
                path=str(directory),
            )
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / _MARK).touch()


def write_secret(path: Path) -> str:
    """Write a random secret to a new file, mode 0600, and return it."""
    secret = os.urandom(16).hex()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
    return secret
