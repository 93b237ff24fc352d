"""Signing and showing the log every second while a station is open, and knowing when that cannot be done any more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from birthmark.errors import BirthmarkError, StationFault

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["Publishing"]

_EVERY_S = 1.0


class Publishing:
    """A thread that publishes the log of a workspace until it is closed.

    What may pass by itself is tried again; anything else is kept, and from then on ``require`` raises it: an
    unwitnessed log must not grow.
    """

    def __init__(self, workspace: Workspace, *, every_s: float = _EVERY_S) -> None:
        self._workspace = workspace
        self._every = every_s
        self._stop = threading.Event()
        self.failure: BirthmarkError | None = None
        """What stopped it, if anything has."""
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Return while the log can be shown; raise what stopped it."""
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Stop. What is not shown yet is shown when the workspace is closed."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while self.failure is None and not self._stop.wait(self._every):
            try:
                self._workspace.publish()
            except BirthmarkError as problem:
                if not problem.retry_safe:
                    self.failure = problem
            except Exception as problem:  # noqa: BLE001  a thread that dies in silence would let the log grow unseen
                self.failure = StationFault(
                    "station.publish",
                    f"the log cannot be shown any more: {type(problem).__name__}",
                    hint="This is a defect of the program; stop the station and run `birthmark audit verify`.",
                )
