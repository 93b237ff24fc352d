"""The right to act on one device: for one run of one attempt, until a deadline, and only until it is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from birthmark.errors import Unavailable
from birthmark.ports import Fence

__all__ = ["DeadlineFence", "StationFence"]


class StationFence(Fence, Protocol):
    """The fence as the station itself needs it: what it puts on record stands or falls with the same right.

    ``deciding`` raises what ``hold`` does, and else keeps the right from being taken away until its block ends:
    whoever takes it away afterwards knows that the block has ended, or never begins.
    """

    def deciding(self) -> AbstractContextManager[None]: ...


class DeadlineFence:
    """Implements ``StationFence``. ``seconds``: how long the right stands, from now on ``monotonic``.

    Threads may call it at once if ``lock`` is a lock of theirs. Who waits no longer for a device takes the right away
    with ``revoke``: whatever a step was going to do to the device or to put on record, it does not do any more.
    """

    def __init__(
        self,
        token: str,
        *,
        seconds: float,
        monotonic: Callable[[], float],
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._token = token
        self._monotonic = monotonic
        self._end = monotonic() + seconds
        self._seconds = seconds
        self._revoked = False
        self.decided = False
        """Whether something was put on record under this fence: then the run is about to end."""
        self._lock = nullcontext() if lock is None else lock

    @property
    def token(self) -> str:
        return self._token

    def hold(self) -> None:
        if (lapsed := self.lapsed()) is not None:
            raise lapsed

    def lapsed(self) -> Unavailable | None:
        """Return why the right stands no more, None while it stands."""
        if self._end <= self._monotonic():
            return Unavailable(
                "station.deadline",
                f"the device was not done after {self._seconds:g} seconds",
                hint="Look at the link to the device, then run the same command again: it goes on where it stopped.",
                seconds=self._seconds,
            )
        if self._revoked:
            return Unavailable(
                "station.fenced",
                "the right to act on this device was taken away",
                hint="Nothing more was done to the device; run the same command again, it goes on where it stopped.",
            )
        return None

    @contextmanager
    def deciding(self) -> Iterator[None]:
        with self._lock:
            self.hold()
            yield
            self.decided = True

    def remaining(self) -> float:
        return 0.0 if self._revoked else max(0.0, self._end - self._monotonic())

    def revoke(self) -> None:
        """Take the right away for ever; what is being decided right now is decided when this returns."""
        with self._lock:
            self._revoked = True
