"""Every cloud that the laws of ``ports.Cloud`` are tried on: one module a technology, found by its name.

A module ``support/clouds/NAME.py`` has ``CLOUDS``: kind of cloud → function (directory) → context manager that starts
the real service or the emulator and gives a fresh ``CloudWorld``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from support.clouds.fleet import Fleet
from support.clouds.world import CloudWorld

__all__ = ["CLOUDS", "CloudWorld", "Fleet"]

CLOUDS: dict[str, Callable[[Path], AbstractContextManager[CloudWorld]]] = {
    kind: make
    for module in sorted(one.name for one in iter_modules(__path__) if one.name not in ("fleet", "world"))
    for kind, make in import_module(f"support.clouds.{module}").CLOUDS.items()
}
