"""A rule of the guide, and what it says about one set of answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from birthmark.guide.case import Case

__all__ = ["SEVERITY", "Finding", "Rule", "Verdict"]

Verdict = Literal["refused", "discouraged", "allowed", "recommended"]
SEVERITY: dict[Verdict, int] = {"refused": 0, "discouraged": 1, "allowed": 2, "recommended": 3}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One rule that applies. ``advice`` says what to do; empty where there is nothing to do."""

    rule: str
    verdict: Verdict
    title: str
    reason: str
    advice: str
    source: str


@dataclass(frozen=True, slots=True)
class Rule:
    """``when`` says whether it applies; in ``reason`` and ``advice``, ``{c.name}`` is a value of the case."""

    id: str
    verdict: Verdict
    title: str
    when: Callable[[Case], bool]
    reason: str
    source: str
    advice: str = ""

    def finding(self, case: Case) -> Finding | None:
        """Return what the rule says about ``case``, or None if it does not apply."""
        if not self.when(case):
            return None
        return Finding(
            rule=self.id,
            verdict=self.verdict,
            title=self.title,
            reason=self.reason.format(c=case) if "{" in self.reason else self.reason,
            advice=self.advice.format(c=case) if "{" in self.advice else self.advice,
            source=self.source,
        )
