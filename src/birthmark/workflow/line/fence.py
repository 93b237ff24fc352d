"""The right to act on one device: for one run of one attempt, until a deadline, and only until it is taken away."""

from __future__ import annotations

from collections.abc import Callable

from birthmark.errors import Unavailable

__all__ = ["DeadlineFence"]


class DeadlineFence:
    """Implements ``ports.Fence``. ``seconds``: how long the right stands, from now on ``monotonic``.

    Threads may call it at once. Who waits no longer for a step takes the right away with ``revoke``: whatever the step
    was going to do to the device, it does not do any more.
    """

    def __init__(self, token: str, *, seconds: float, monotonic: Callable[[], float]) -> None:
        self._token = token
        self._monotonic = monotonic
        self._end = monotonic() + seconds
        self._seconds = seconds
        self._revoked = False

    @property
    def token(self) -> str:
        return self._token

    def hold(self) -> None:
        if self._revoked:
            raise Unavailable(
                "station.fenced",
                "the right to act on this device was taken away",
                hint="Nothing more was done to the device; run the same command again, it goes on where it stopped.",
            )
        if self.remaining() <= 0:
            self._revoked = True
            raise Unavailable(
                "station.deadline",
                f"the device was not done after {self._seconds:g} seconds",
                hint="Look at the link to the device, then run the same command again: it goes on where it stopped.",
                seconds=self._seconds,
            )

    def remaining(self) -> float:
        return 0.0 if self._revoked else max(0.0, self._end - self._monotonic())

    def revoke(self) -> None:
        """Take the right away for ever. Doing it twice is safe."""
        self._revoked = True
