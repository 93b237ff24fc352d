"""Fences of tests: one that always holds, one that is over, one at which the power goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from birthmark.errors import Unavailable

__all__ = ["OPEN", "OVER", "CuttingFence", "OpenFence", "OverFence", "PowerCut"]


class PowerCut(BaseException):
    """The station stops between two acts. No handler of the product may catch it."""


class OpenFence:
    """Always holds; counts the acts it was asked for."""

    token = "test"

    def __init__(self) -> None:
        self.acts = 0

    def hold(self) -> None:
        self.acts += 1

    def remaining(self) -> float:
        return 60.0

    @contextmanager
    def deciding(self) -> Iterator[None]:
        self.hold()
        yield


class OverFence:
    """Its time is over."""

    token = "over"

    def hold(self) -> None:
        raise Unavailable("station.deadline", "the time is over", hint="Run it again.")

    def remaining(self) -> float:
        return 0.0


class CuttingFence(OpenFence):
    """Lets ``acts`` acts happen; the power goes before the next one."""

    def __init__(self, acts: int) -> None:
        super().__init__()
        self._left = acts

    def hold(self) -> None:
        if self.acts == self._left:
            raise PowerCut
        super().hold()


OPEN = OpenFence()
OVER = OverFence()
