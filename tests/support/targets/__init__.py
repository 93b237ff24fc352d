"""Every device that the laws of ``ports.Target`` are tried on: one module a technology, found by its name.

A module ``support/targets/NAME.py`` has ``DEVICES``: kind of device → function (directory, monkeypatch) → a fresh
``Device``. It starts the real component or the emulator itself.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from support.targets.device import Device

__all__ = ["DEVICES", "Device"]

DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    kind: make
    for module in sorted(one.name for one in iter_modules(__path__) if one.name != "device")
    for kind, make in import_module(f"support.targets.{module}").DEVICES.items()
}
