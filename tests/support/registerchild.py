"""A process that registers and may be killed. Waiting is skipped on a clock that it shares with who started it."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from birthmark.errors import BirthmarkError
from birthmark.shell.register.registration import open_register
from birthmark.shell.workspace.wiring import open_workspace

__all__ = ["SkippingClock", "start_run"]

_SPAWN = multiprocessing.get_context("spawn")


class SkippingClock:
    """Real time and what was slept for, the same in all processes that have it."""

    def __init__(self) -> None:
        self._skipped: Any = _SPAWN.Value("d", 0.0)

    def __call__(self) -> float:
        return time.monotonic() + float(self._skipped.value)

    def sleep(self, seconds: float) -> None:
        with self._skipped.get_lock():
            self._skipped.value += seconds


def start_run(root: Path, name: str, clock: SkippingClock) -> tuple[BaseProcess, Connection]:
    """Start one run for the cloud ``name`` and return the process, and where it tells what came of it."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_run, args=(root, name, clock, theirs))
    process.start()
    theirs.close()
    return process, ours


def _run(root: Path, name: str, clock: SkippingClock, pipe: Connection) -> None:
    try:
        with (
            open_workspace(root) as workspace,
            open_register(workspace, name, workspace.settings.clouds[name]) as register,
        ):
            counts = register.run(clock=clock, sleep=clock.sleep, patience_s=10_000)
            pipe.send({"outcomes": dict(counts.outcomes), "repeated": counts.repeated, "back_offs": counts.back_offs})
    except BirthmarkError as problem:
        pipe.send({"error": str(problem)})
