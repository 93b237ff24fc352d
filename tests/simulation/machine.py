"""One machine: a workspace on its disk, a clock that cannot be trusted, and the program that runs until power goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from birthmark.adapters.keys.file import FileKeys
from birthmark.shell.workspace.config import load_settings
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.wiring import Workspace
from simulation.faults import Fuse, burning

__all__ = ["Machine"]

_T = TypeVar("_T")
_opened: dict[tuple[Path, str], Any] = {}
"""Keys and settings by machine of the template and name: they never change, and opening a key file takes long."""


class _TemplateKeys:
    """The key files of one machine, each decrypted once a process."""

    def __init__(self, machine: Path, keys: Any) -> None:
        self._machine = machine
        self._keys = keys

    def open(self, uri: str) -> Any:
        place = (self._machine, uri)
        if place not in _opened:
            _opened[place] = self._keys.open(uri)
        return _opened[place]

    def close(self) -> None:
        self._keys.close()


class Machine:
    """What survives a power cut is ``root`` and nothing else. ``skew``: how far its clock is from the truth."""

    def __init__(self, name: str, root: Path, template: Path, random: Random, now: Callable[[], datetime]) -> None:
        self.name = name
        self._template = template
        self.root = root
        self.skew = timedelta()
        self.boots = 0
        self._random = random
        self._now = now
        self._workspace: Workspace | None = None
        self.fuse = Fuse(self)

    def clock(self) -> datetime:
        return self._now() + self.skew

    def run(self, command: Callable[[Workspace], _T]) -> _T:
        """Give a command to the program that runs here; ``PowerCut`` comes out of it, and then the machine is down."""
        with burning(self.fuse):
            return command(self._up())

    def publish(self) -> None:
        """Sign and show the log, as a running program does every second and at its end."""
        self.run(lambda workspace: workspace.publish())

    def crash(self) -> None:
        """Throw away what the program had in memory; the disk stays as it is."""
        if self._workspace is not None:
            self._workspace.close()
            self._workspace = None
        self.fuse.left, self.fuse.blown = None, False

    def restore(self, copy: Path) -> None:
        """Put an older copy of the whole disk in place."""
        self.crash()
        shutil.rmtree(self.root)
        shutil.copytree(copy, self.root)

    @property
    def is_up(self) -> bool:
        return self._workspace is not None

    def _up(self) -> Workspace:
        if self._workspace is not None:
            return self._workspace
        place = (self._template, "settings")
        if place not in _opened:
            _opened[place] = load_settings(self.root)
        workspace = Workspace(self.root, _opened[place], SecretsResolver())
        workspace.clock, workspace.entropy, workspace.by = self.clock, self._random.randbytes, "simulation"
        try:
            keys = _TemplateKeys(self._template, FileKeys(workspace.secrets, self.root))
            workspace._keys["file"] = keys  # type: ignore[assignment]
            vault = (self._template, "vault")
            if vault not in _opened:
                _opened[vault] = workspace.vault_key
            workspace.__dict__["vault_key"] = _opened[vault]
            workspace.publication.require_continuity()
        except BaseException:
            workspace.close()
            raise
        self.boots += 1
        self._workspace = workspace
        return workspace
