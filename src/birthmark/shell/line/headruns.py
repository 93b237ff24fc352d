"""The work on one device in a thread of its own, so that whoever waits for it can stop waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from birthmark.workflow.line.fence import DeadlineFence

__all__ = ["DeviceRuns"]

_T = TypeVar("_T")
_GRACE_S = 1.0
"""A target that watches the fence says itself what it waited for; after that nobody waits for it any more."""
_LAST_WORD_S = 1.0
"""A run that has put its device on record has one line of the journal left to write."""


class _DeviceRun(Generic[_T]):
    def __init__(self, fence: DeadlineFence, work: Callable[[], _T]) -> None:
        self.fence = fence
        self.woken = threading.Event()
        self.ended = threading.Event()
        self._work = work
        self._result: list[_T] = []
        self._problem: BaseException | None = None

    def work(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as problem:  # noqa: BLE001  whoever waits raises it in its own thread
            self._problem = problem
        finally:
            self.ended.set()
            self.woken.set()

    def outcome(self) -> _T:
        if self._problem is not None:
            raise self._problem
        return self._result[0]


class DeviceRuns:
    """All runs that are under way at a station. Threads may call it at once.

    A run that is not done at its deadline loses its fence: it may wake up whenever it likes, it does nothing more to
    its device and records nothing. What it holds (its device serial, its place) stays taken until it does wake up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[_DeviceRun[object]] = set()
        self._given_up = False

    def run(self, name: str, fence: DeadlineFence, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns, or raise what it raises; ``Unavailable`` of the fence when it takes too long.

        An interruption of the waiting thread takes the fence away before it goes on.
        """
        one: _DeviceRun[_T] = _DeviceRun(fence, work)
        with self._lock:
            if self._given_up:
                fence.revoke()
                fence.hold()
            self._under_way.add(one)  # type: ignore[arg-type]
        threading.Thread(target=one.work, name=f"device {name}", daemon=True).start()
        try:
            one.woken.wait(fence.remaining() + _GRACE_S)
        finally:
            if not one.ended.is_set():
                fence.revoke()
                one.ended.wait(_LAST_WORD_S if fence.decided else 0)
            with self._lock:
                self._under_way.discard(one)
        if one.ended.is_set():
            return one.outcome()
        raise fence.lapsed() or _still_there(name)

    def give_up(self) -> None:
        """Take the right to act away from every run that is under way, and from all that follow."""
        with self._lock:
            self._given_up = True
            under_way = list(self._under_way)
        for one in under_way:
            one.fence.revoke()
            one.woken.set()


def _still_there(name: str) -> RuntimeError:
    return RuntimeError(f"the run of {name} lost its fence, and the fence does not know")
