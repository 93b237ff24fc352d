"""``bench register``: devices told to an emulated cloud at its limits, killed in the middle, and compared then."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from birthmark.adapters.durable import write_durably
from birthmark.adapters.memory import peak_mb
from birthmark.errors import StationFault
from birthmark.shell.bench.verified import make_verified
from birthmark.shell.throwaway import throw_away_workspace
from birthmark.shell.workspace.config import CONFIG_NAME
from birthmark.shell.workspace.wiring import Workspace

__all__ = ["bench_register"]

_NAME = "bench"
_SPAWN = multiprocessing.get_context("spawn")


def bench_register(
    count: int,
    *,
    parent: Path,
    cloud: str = "dps",
    reconcile: bool = False,
    making: Callable[[int], None] = lambda made: None,
) -> dict[str, object]:
    """Tell an emulated DPS (individual enrolments, real TLS and HTTP) of ``count`` devices as fast as its limits allow.

    Waiting is skipped and counted: ``minutes`` is real time plus what was slept for, on one clock for both sides.
    ``ratio``: the rate reached, through the same number of devices in calls of a full batch at the limit; the process
    is killed (SIGKILL) when half of them are settled, and what it had asked is told again: ``repeated_calls``, a share
    of ``repeated`` in all. ``peak_mb``: of the process that registers. With ``reconcile``, all records are compared
    afterwards; ``cloud`` "export" tells a directory of files in place of the emulator.
    """
    with throw_away_workspace(parent) as workspace:
        began = time.perf_counter()
        make_verified(workspace, count, progress=making)
        made_s = time.perf_counter() - began
        skipped = _SPAWN.Value("d", 0.0)
        with _cloud(workspace, cloud, skipped) as uri:
            with (workspace.root / CONFIG_NAME).open("a") as file:
                file.write(f'\n[clouds.{_NAME}]\nuri = "{uri}"\n')
            root = workspace.root
            began = _now(skipped)
            real = time.perf_counter()
            first = _in_process(_register, root, skipped, count // 2)
            last = _in_process(_register, root, skipped, None)
            real_s, minutes = time.perf_counter() - real, (_now(skipped) - began) / 60
            compared = _in_process(_compare, root, skipped, None) if reconcile else None
    if first is not None or last is None:
        raise StationFault("bench.worker.died", "a process died at another time than it should", hint="Report it.")
    allowed = last["calls_a_minute"] * last["batch"]
    result: dict[str, object] = {
        "bench": "register",
        "cloud": cloud,
        "count": count,
        "rate_a_minute": round(count / minutes),
        "allowed_a_minute": round(allowed),
        "ratio": round(count / minutes / allowed, 3),
        "minutes": round(minutes, 2),
        "real_s": round(real_s, 1),
        "calls_after_kill": last["calls"],
        "repeated_calls": last["repeated_calls"],
        "repeated": round(last["repeated_calls"] / max(-(-count // last["batch"]), 1), 5),
        "back_offs": last["back_offs"],
        "peak_mb": round(last["peak_mb"]),
        "make_s": round(made_s, 1),
    }
    if compared is not None:
        result |= {f"reconcile_{name}": value for name, value in compared.items()}
    return result


def _now(skipped: Any) -> float:
    # CLOCK_MONOTONIC is one for all processes of a machine.
    return time.monotonic() + float(skipped.value)


@contextmanager
def _cloud(workspace: Workspace, cloud: str, skipped: Any) -> Iterator[str]:
    if cloud == "export":
        yield "export:registry"
        return
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_emulate, args=(theirs, skipped))
    process.start()
    theirs.close()
    try:
        host, key, root_pem = ours.recv()
        secret = workspace.root / "secrets" / "dps-key"
        write_durably(secret, key.encode(), mode=0o600)
        write_durably(workspace.root / "dps-root.pem", root_pem.encode(), mode=0o644)
        reference = quote(f"file:{secret.resolve()}", safe="")
        yield f"azure-dps:{host}?mode=individual&key={reference}&trust=dps-root.pem"
    finally:
        ours.close()
        process.join()


def _emulate(pipe: Connection, skipped: Any) -> None:
    from birthmark.testing.dps import EmulatedDps

    with EmulatedDps(mqtt_port=0, monotonic=lambda: _now(skipped)) as dps:
        pipe.send((f"{dps.host}:{dps.https_port}", dps.key, dps.root_pem))
        try:
            pipe.recv()
        except EOFError:
            return


def _in_process(work: Callable[..., None], *arguments: Any) -> dict[str, Any] | None:
    """Return what ``work`` sends from a process of its own; None if it was killed."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=work, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        answer: dict[str, Any] = ours.recv()
    except EOFError:
        return None
    finally:
        process.join()
    return answer


@dataclass(slots=True)
class _Killed:
    """Ends this process, as a power cut would, when so many devices are settled."""

    after: int | None
    settled: int = 0

    def __call__(self, due: int, settled: int, parked: int) -> None:
        self.settled += settled + parked
        if self.after is not None and self.settled >= self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def _register(pipe: Connection, root: Path, skipped: Any, kill_after: int | None) -> None:
    from birthmark.shell.register.registration import open_register
    from birthmark.shell.workspace.wiring import open_workspace

    with (
        open_workspace(root, publish=False) as workspace,
        open_register(workspace, _NAME, workspace.settings.clouds[_NAME]) as register,
    ):
        clock, sleep = _clock(skipped)
        counts = register.run(clock=clock, sleep=sleep, progress=_Killed(kill_after))
        limits, left = register.cloud.limits, register.book.counts()
        pipe.send(
            {
                "calls": counts.calls,
                "repeated_calls": counts.repeated_calls,
                "back_offs": counts.back_offs,
                "calls_a_minute": limits.calls_a_minute,
                "batch": limits.batch,
                "left": left["due"] + left["asked"] + left["parked"],
                "peak_mb": peak_mb(),
            }
        )


def _compare(pipe: Connection, root: Path, skipped: Any, _nothing: None) -> None:
    from birthmark.shell.register.registration import open_register
    from birthmark.shell.workspace.wiring import open_workspace

    began = time.perf_counter()
    clock, sleep = _clock(skipped)
    with (
        open_workspace(root, publish=False) as workspace,
        open_register(workspace, _NAME, workspace.settings.clouds[_NAME]) as register,
        register.compare(clock=clock, sleep=sleep) as comparison,
    ):
        differences = sum(1 for _ in comparison.run())
        alike = comparison.counts["alike"]
    seconds = round(time.perf_counter() - began, 1)
    pipe.send({"s": seconds, "alike": alike, "differences": differences, "peak_mb": round(peak_mb())})


def _clock(skipped: Any) -> tuple[Callable[[], float], Callable[[float], None]]:
    def sleep(seconds: float) -> None:
        with skipped.get_lock():
            skipped.value += seconds

    return lambda: _now(skipped), sleep
