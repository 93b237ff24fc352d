"""The reference page of the guide (docs/guide.md), made from the tables of questions and rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from birthmark.guide.questions import DECISIONS, FACTS, Question, default_of
from birthmark.guide.rule import SEVERITY, Rule
from birthmark.guide.rules import RULES
from birthmark.guide.toml import toml_value

__all__ = ["guide_reference"]

_HOLE = re.compile(r"\{c\.(?:f\.|a\.)?(\w+)(?:![a-z])?(?::,)?\}")
_THEMES = {
    "ONE": "One identity per device",
    "ROOT": "Root of trust",
    "STO": "Where the key lives",
    "KEY": "Key algorithm",
    "CON": "Connectivity of the factory",
    "GEN": "When to generate",
    "INS": "When to install",
    "AUD": "Audit",
    "VAL": "Length of validity",
    "PRO": "Profile",
    "REG": "Registration",
}
_HEAD = """\
# The decision guide

<!-- Made by birthmark.guide.reference; a test keeps this page in step with the tables. -->

`birthmark plan` asks what a device maker has to decide, says what follows from it, and writes `plan.toml`, from which
`birthmark init DIR --plan plan.toml` makes a workspace.

    birthmark plan                                          # asks, one question after the other
    birthmark plan --answers answers.toml                   # reads the answers
    birthmark plan --answers answers.toml --output plan.toml
    birthmark plan --answers answers.toml --json            # one JSON document

It exits with 0 if there is a plan and with 3 if a rule refuses the answers. An answers file is strict TOML: the
decisions at the top, facts below `[facts]`. An unknown key or choice is an error. `docs/examples/plan-*.toml` are such
files.

A finding has a verdict: **refused** (cannot work, no plan), **discouraged** (works, at a risk that is named),
**allowed** (works, mind this) or **recommended**. A plan names the rules that discourage it, and is checked against its
answers whenever it is read: who edits the derived part by hand is refused.
"""


def guide_reference() -> str:
    """Return docs/guide.md: questions, choices, defaults, and every rule with verdict, reason and source."""
    lines = [_HEAD, "## The eight decisions", ""]
    for question in DECISIONS:
        lines += _question(question)
    lines += ["## The facts", "", "Each has a default, so that a file with the decisions alone works.", ""]
    lines += ["| key | question | choices | default |", "|---|---|---|---|"]
    lines += [_fact(question) for question in FACTS]
    lines += ["", "## The rules", "", f"{len(RULES)} rules. An id is never used again for another rule."]
    for theme, title in _THEMES.items():
        rules = [rule for rule in RULES if rule.id.split("-")[1] == theme]
        lines += [
            "",
            f"### {title}",
            "",
            "| rule | verdict | what | reason | what to do | source |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_rule(rule) for rule in sorted(rules, key=lambda rule: (SEVERITY[rule.verdict], rule.id))]
    return "\n".join(lines) + "\n"


def _question(question: Question) -> Iterator[str]:
    yield f"### `{question.key}`: {question.title}"
    yield ""
    yield question.text
    yield ""
    default = default_of(question)
    for choice in question.choices:
        mark = " (default)" if choice.id == default else ""
        yield f"- `{choice.id}`{mark}: {choice.label}. {choice.help}".rstrip()
    yield ""


def _fact(question: Question) -> str:
    default = default_of(question)
    shown = f"`{toml_value(default)}`" if default is not None else "none"
    choices = ", ".join(f"`{choice.id}`" for choice in question.choices) or question.kind
    return f"| `{question.key.removeprefix('facts.')}` | {question.text} | {choices} | {shown} |"


def _rule(rule: Rule) -> str:
    cells = [f"`{rule.id}`", rule.verdict, rule.title, _plain(rule.reason), _plain(rule.advice), rule.source]
    return "| " + " | ".join(cells) + " |"


def _plain(template: str) -> str:
    """Return a template with names in angle marks for the values of a case."""
    return _HOLE.sub(lambda hole: f"‹{hole[1].replace('_', ' ')}›", template)
