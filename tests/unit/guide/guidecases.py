"""Answers for the tests of the guide: every combination of the decisions, and single ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, get_args

from birthmark.guide import answers as words
from birthmark.guide.answers import Answers, Facts
from birthmark.guide.plan import decide

CHOICES: dict[str, tuple[str, ...]] = {
    "root": get_args(words.Root),
    "storage": get_args(words.Storage),
    "connectivity": get_args(words.Connectivity),
    "audit": get_args(words.Audit),
    "validity": get_args(words.Validity),
    "when_to_generate": get_args(words.GenerateAnswer),
    "when_to_install": get_args(words.InstallAnswer),
    "registration": get_args(words.Registration),
}
BASE: dict[str, Any] = {
    "root": "self_managed",
    "storage": "file_system",
    "connectivity": "online",
    "audit": "none",
    "validity": "rolled",
    "registration": "export",
}


def answer(**changed: Any) -> Answers:
    """The base case with other decisions or facts."""
    decisions = {name: value for name, value in changed.items() if name in CHOICES}
    facts = {name: value for name, value in changed.items() if name not in CHOICES}
    return Answers(**{**BASE, **decisions}, facts=Facts(**facts))


def every_answer(facts: Facts | None = None) -> Iterator[Answers]:
    """Every combination of the eight decisions."""
    for combination in itertools.product(*CHOICES.values()):
        decisions: dict[str, Any] = dict(zip(CHOICES, combination, strict=True))
        yield Answers(**decisions, facts=facts or Facts())


def verdicts(**changed: Any) -> dict[str, str]:
    """Rule id → verdict for the base case with changes."""
    return {finding.rule: finding.verdict for finding in decide(answer(**changed)).findings}
