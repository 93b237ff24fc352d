"""Faults on request: slow answers, throttling storms, answers that get lost, bulk calls that stop half-way.

One seeded generator decides, so the same calls in the same order meet the same faults.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from birthmark.testing.dps.answers import Problem

__all__ = ["FaultPlan", "Faults"]

_RETRY_AFTER_S = 1


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares are of calls, 0 to 1. ``latency_s`` is added to each answer; ``seed`` starts the generator."""

    seed: int = 0
    latency_s: float = 0.0
    throttled: float = 0.0
    lost: float = 0.0
    half_bulk: float = 0.0


class Faults:
    """Decides call by call."""

    def __init__(self, plan: FaultPlan) -> None:
        self.set(plan)

    def set(self, plan: FaultPlan) -> None:
        """Replace the plan and start its generator anew; a plan out of range is ``ValueError``."""
        if not 0 <= plan.latency_s <= 60:
            raise ValueError("latency_s must be between 0 and 60")
        if not all(0 <= share <= 1 for share in (plan.throttled, plan.lost, plan.half_bulk)):
            raise ValueError("a share must be between 0 and 1")
        self.plan = plan
        self._random = random.Random(plan.seed)  # noqa: S311  faults have to be repeatable, not secret

    def configure(self, document: dict[str, Any]) -> None:
        """Set the plan from the control endpoint; what does not fit is ``Problem(400001)``."""
        try:
            self.set(msgspec.convert(document, FaultPlan))
        except (msgspec.ValidationError, ValueError) as problem:
            raise Problem(400001, str(problem)) from None

    def throttle(self) -> None:
        """Refuse this call with 429 if its turn has come."""
        if self._random.random() < self.plan.throttled:
            raise Problem(429001, "Operations are being throttled.", retry_after=_RETRY_AFTER_S)

    def loses_answer(self) -> bool:
        """Say whether the answer of a call that was done gets lost."""
        return self._random.random() < self.plan.lost

    def bulk_stops_after(self, count: int) -> int:
        """Return how many members of a bulk call are worked off."""
        if count and self._random.random() < self.plan.half_bulk:
            return self._random.randrange(count)
        return count
