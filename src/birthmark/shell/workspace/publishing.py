"""Signing and showing the log while work goes on, and knowing when that cannot be done any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from birthmark.errors import BirthmarkError, StationFault
from birthmark.shell.workspace.wiring import Workspace, open_workspace

__all__ = ["Publishing", "publication_defect", "publishing", "signing_heads"]

_SHOW_EVERY_S = 1.0
_SIGN_EVERY_S = 0.5

_Act = Callable[[], object]


class Publishing:
    """A thread that does one act on the log again and again until it is closed.

    ``opened`` yields the act, in that thread. What may pass by itself is tried again; anything else is kept, and from
    then on ``require`` raises it: an unwitnessed log must not grow.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[_Act]], every_s: float) -> None:
        self._opened = opened
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

    def before(self, progress: Callable[[int], None]) -> Callable[[int], None]:
        """Return ``progress`` with ``require`` before it: work in bulk then ends where everything it did is durable."""

        def told(done: int) -> None:
            self.require()
            progress(done)

        return told

    def close(self) -> None:
        """Stop. What is not shown yet is shown when the workspace is closed."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with self._opened() as act:
                while self.failure is None and not self._stop.wait(self._every):
                    self._once(act)
        except BirthmarkError as problem:
            self.failure = problem
        except Exception as problem:  # noqa: BLE001  a thread that dies in silence would let the log grow unseen
            self.failure = publication_defect(problem)

    def _once(self, act: _Act) -> None:
        try:
            act()
        except BirthmarkError as problem:
            if not problem.retry_safe:
                self.failure = problem


def publication_defect(problem: Exception) -> StationFault:
    """Return the error for what no publication should raise."""
    return StationFault(
        "station.publish",
        f"the log cannot be shown any more: {type(problem).__name__}",
        hint="This is a defect of the program; stop here and run `birthmark audit verify`.",
    )


@contextmanager
def publishing(workspace: Workspace) -> Iterator[Publishing]:
    """Sign and show the log of a workspace every second. What stopped it is raised at the end at the latest."""

    def show() -> None:
        workspace.publish()

    with _until_closed(Publishing(lambda: nullcontext(show), _SHOW_EVERY_S)) as shown:
        yield shown


@contextmanager
def signing_heads(workspace: Workspace) -> Iterator[Publishing]:
    """Sign a head every half second, on a connection of its own, while work in bulk goes on; show nothing."""
    workspace.ledger.leave_checkpoints()

    @contextmanager
    def apart() -> Iterator[_Act]:
        with open_workspace(workspace.root, secrets=workspace.secrets, publish=False) as own:

            def sign() -> None:
                own.sign_head()
                own.ledger.checkpoint()

            yield sign

    with _until_closed(Publishing(apart, _SIGN_EVERY_S)) as signed:
        yield signed


@contextmanager
def _until_closed(opened: Publishing) -> Iterator[Publishing]:
    try:
        yield opened
    finally:
        opened.close()
    opened.require()
