"""The service's rate limits as token buckets on a clock that is handed in.

Sources of the defaults: the service's published quotas (1,000 operations and 1,000 registrations a minute for each
service, 5 polls in 10 seconds for each device, 100 enrolment groups, 25 CA certificates; 100 calls of the identity
registry a minute for each unit of an IoT hub S1 or S2).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from birthmark.testing.dps.answers import Problem

__all__ = ["DpsLimits", "Gate"]

_DEVICES_WATCHED = 10_000


@dataclass(frozen=True, slots=True)
class DpsLimits:
    """What one service allows. Rates: per minute, and per device in ten seconds; for each hub per minute."""

    operations_a_minute: int = 1000
    registrations_a_minute: int = 1000
    polls_in_10_s: int = 5
    enrollments: int = 1_000_000
    groups: int = 100
    certificates: int = 25
    registrations: int = 1_000_000
    hub_calls_a_minute: int = 100


class _Bucket:
    def __init__(self, size: float, per_second: float, now: float) -> None:
        self._size, self._rate, self._left, self._at = size, per_second, size, now

    def take(self, now: float) -> float:
        """Take one; return 0, or the seconds until there is one."""
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate


class Gate:
    """Counts calls; what is too much is ``Problem(429001)`` with the seconds to wait."""

    def __init__(self, limits: DpsLimits, monotonic: Callable[[], float]) -> None:
        self._limits, self._clock = limits, monotonic
        now = monotonic()
        self._operations = _Bucket(limits.operations_a_minute, limits.operations_a_minute / 60, now)
        self._registrations = _Bucket(limits.registrations_a_minute, limits.registrations_a_minute / 60, now)
        self._polls: OrderedDict[str, _Bucket] = OrderedDict()
        self._hubs: dict[str, _Bucket] = {}

    def operation(self) -> None:
        """Count one call of the service API; a bulk call is one."""
        self._count(self._operations)

    def registration(self) -> None:
        """Count one registration."""
        self._count(self._registrations)

    def hub(self, name: str) -> None:
        """Count one call of the registry of a hub."""
        rate = self._limits.hub_calls_a_minute
        self._count(self._hubs.setdefault(name, _Bucket(rate, rate / 60, self._clock())))

    def poll(self, registration_id: str) -> None:
        """Count one poll of a device."""
        polls = self._limits.polls_in_10_s
        bucket = self._polls.pop(registration_id, None) or _Bucket(polls, polls / 10, self._clock())
        self._polls[registration_id] = bucket
        if len(self._polls) > _DEVICES_WATCHED:
            self._polls.popitem(last=False)
        self._count(bucket)

    def _count(self, bucket: _Bucket) -> None:
        wait = bucket.take(self._clock())
        if wait:
            raise Problem(429001, "Operations are being throttled.", retry_after=math.ceil(wait))
