"""A medium that lies: what was written and read back there is gone, or another's, when the next one looks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from birthmark.ports import Credential, Fence, Target
from support.fences import OPEN
from support.targets.device import Device

__all__ = ["on_medium"]


def on_medium(name: str) -> Callable[[Any], Any]:
    """Give the lies of a medium to a function that makes devices: the directory ``name`` below its root holds all."""

    def decorate(make: Any) -> Any:
        @wraps(make)
        def made(options: str, root: Path, monkeypatch: pytest.MonkeyPatch, **named: str) -> Device:
            device: Device = make(options, root, monkeypatch, **named)
            honest, medium = device.open, root / name

            def loses() -> None:
                shutil.copytree(medium, root / "before")
                device.open = lambda: _Later(honest(), medium, root / "before")

            def swaps() -> None:
                other = root / "other"
                other.mkdir()
                stranger = make(options, other, monkeypatch, **named)
                stranger.open().install(stranger.obtain(), OPEN)
                device.open = lambda: _Later(honest(), medium, other / name)

            device.lies = {"stores nothing": loses, "other certificate": swaps}
            return device

        return made

    return decorate


class _Later:
    """A target whose medium holds something else as soon as the installation is over."""

    def __init__(self, target: Target, medium: Path, then: Path) -> None:
        self._target, self._medium, self._then = target, medium, then

    def install(self, credential: Credential, fence: Fence) -> None:
        self._target.install(credential, fence)
        shutil.rmtree(self._medium)
        shutil.copytree(self._then, self._medium)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
