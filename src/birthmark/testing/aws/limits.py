"""Rates by operation, as token buckets on a clock that is handed in. None is held unless it is asked for.

The service's own rates differ by account and region and are raised on request, so none is built in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from birthmark.testing.aws.refusal import Refusal

__all__ = ["Rates"]


class Rates:
    """``a_second``: operation of the API → calls a second; as many may come at once."""

    def __init__(self, a_second: Mapping[str, float], monotonic: Callable[[], float]) -> None:
        if not all(rate > 0 for rate in a_second.values()):
            raise ValueError("a rate must be above 0")
        self._rates, self._clock = dict(a_second), monotonic
        self._left = {name: (max(1.0, rate), monotonic()) for name, rate in self._rates.items()}

    def take(self, name: str) -> None:
        """Count one call; what is too much is ``ThrottlingException``."""
        if name not in self._rates:
            return
        rate, now = self._rates[name], self._clock()
        left, at = self._left[name]
        left = min(max(1.0, rate), left + (now - at) * rate)
        self._left[name] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise Refusal("ThrottlingException", "Rate exceeded")
