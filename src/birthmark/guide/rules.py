"""The table of rules. An id is never reused: a rule that goes leaves a gap."""

from __future__ import annotations

from birthmark.guide import (
    rules_audit,
    rules_factory,
    rules_registration,
    rules_root,
    rules_storage,
    rules_validity,
)
from birthmark.guide.case import Case
from birthmark.guide.rule import SEVERITY, Finding, Rule

__all__ = ["RULES", "findings_of"]

RULES: tuple[Rule, ...] = (
    *rules_root.RULES,
    *rules_storage.RULES,
    *rules_factory.RULES,
    *rules_audit.RULES,
    *rules_validity.RULES,
    *rules_registration.RULES,
)


def findings_of(case: Case) -> tuple[Finding, ...]:
    """Return what every rule says about ``case``: the worst first, then in the order of the table."""
    found = [finding for rule in RULES if (finding := rule.finding(case)) is not None]
    return tuple(sorted(found, key=lambda finding: SEVERITY[finding.verdict]))
