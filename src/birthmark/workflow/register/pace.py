"""Not faster than a cloud allows: calls are spread evenly, and it is left alone for as long as it asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from birthmark.ports import Entropy

__all__ = ["Pace"]

_CATCH_UP_S = 1.0
"""How far calls may lag behind and catch up: late wake-ups must not add up to a lower rate."""
_FIRST_S, _MOST_S = 1.0, 60.0
_MOST_ASKED_S = 3600.0


@dataclass(slots=True)
class Pace:
    """A token bucket without a store: what was not used is not saved up. ``clock``: seconds, never backwards."""

    calls_a_minute: float
    clock: Callable[[], float]
    sleep: Callable[[float], object]
    entropy: Entropy
    waited_s: float = 0.0
    _next: float = 0.0
    _failures: int = 0

    def take(self, calls: int) -> None:
        """Return when ``calls`` more calls may be made."""
        if calls <= 0:
            return
        now = self.clock()
        if self._next > now:
            self.waited_s += self._next - now
            self.sleep(self._next - now)
        self._next = max(self._next, now - _CATCH_UP_S) + calls * 60.0 / self.calls_a_minute

    def charge(self, calls: int) -> None:
        """Count calls that were made already, beside those that were taken."""
        self._next += max(calls, 0) * 60.0 / self.calls_a_minute

    def answered(self) -> None:
        """The cloud answered: the next failure is the first again."""
        self._failures = 0

    def back_off(self, retry_after: float | None) -> float:
        """No call before ``retry_after`` seconds; without it twice as long at each failure, jittered. Return seconds.

        What a cloud asks for is bounded by an hour: it is a stranger.
        """
        self._failures += 1
        share = int.from_bytes(self.entropy(2), "big") / 0xFFFF
        if retry_after is None:
            seconds = min(_MOST_S, _FIRST_S * 2.0 ** min(self._failures - 1, 10)) * (0.5 + share / 2)
        else:
            seconds = min(max(retry_after, 0.0), _MOST_ASKED_S) + share * _FIRST_S / 4
        self._next = max(self._next, self.clock() + seconds)
        return seconds
