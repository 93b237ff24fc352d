"""Several clouds at once: a thread for each, with its own book and its own connection to the ledger."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from birthmark.errors import BirthmarkError
from birthmark.shell.register.registration import PATIENCE_S, open_register
from birthmark.workflow.register.run import RunCounts

if TYPE_CHECKING:
    from birthmark.shell.workspace.config import CloudSettings
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["CloudRun", "run_clouds"]

Steps = Callable[[str, int, int, int], None]
"""Called with the name of a cloud and, since the last call, how many devices became due, were settled, were parked."""


@dataclass(frozen=True, slots=True)
class CloudRun:
    """What a run for one cloud did, what is left, and what ended it, if something did."""

    name: str
    cloud: str
    counts: RunCounts
    left: int
    parked: int
    problem: BirthmarkError | None


def run_clouds(
    workspace: Workspace,
    clouds: dict[str, CloudSettings],
    *,
    patience_s: float = PATIENCE_S,
    progress: Steps = lambda name, due, settled, parked: None,
) -> list[CloudRun]:
    """Run all of them; one that fails does not stop the others. Interrupted, each settles what it asked and ends."""
    workspace.publish()
    stop = Event()
    with ThreadPoolExecutor(len(clouds), thread_name_prefix="register") as threads:
        runs: list[Future[CloudRun]] = [
            threads.submit(_run, workspace, name, settings, stop, patience_s, progress)
            for name, settings in clouds.items()
        ]
        try:
            return [run.result() for run in runs]
        finally:
            stop.set()


def _run(
    workspace: Workspace, name: str, settings: CloudSettings, stop: Event, patience_s: float, progress: Steps
) -> CloudRun:
    from birthmark.shell.workspace.wiring import open_workspace

    counts, cloud, left, parked = RunCounts(), "", 0, 0
    problem: BirthmarkError | None = None
    try:
        with (
            open_workspace(workspace.root, secrets=workspace.secrets, publish=False) as own,
            open_register(own, name, settings) as register,
        ):
            cloud = register.cloud.name
            try:
                counts = register.run(
                    patience_s=patience_s,
                    stop=stop.is_set,
                    sleep=stop.wait,
                    progress=lambda due, settled, parked: progress(name, due, settled, parked),
                    counts=counts,
                )
            finally:
                found = register.book.counts()
                left, parked = found["due"] + found["asked"], found["parked"]
    except BirthmarkError as failure:
        problem = failure
    return CloudRun(name, cloud, counts, left, parked, problem)
