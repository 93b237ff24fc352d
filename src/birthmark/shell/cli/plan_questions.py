"""Ask the questions of the guide in a terminal, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from birthmark.errors import Misconfigured
from birthmark.guide.answers import Answers, answers_from, checked_value
from birthmark.guide.questions import DECISIONS, FACTS, Question, default_of

__all__ = ["ask_answers", "ask_output"]


def ask_answers(console: Console) -> Answers:
    """Ask the eight decisions, then those facts that matter for them; nothing is kept of what is mistyped."""
    console.print("Eight decisions. Type a number or a name; an empty line takes the default.\n")
    decisions: dict[str, Any] = {}
    for number, question in enumerate(DECISIONS, start=1):
        decisions[question.key] = _ask(console, question, f"{number}/{len(DECISIONS)}")
    return answers_from(decisions | {"facts": _ask_facts(console, decisions)})


def ask_output(console: Console) -> Path | None:
    """Ask where the plan goes; None for nowhere."""
    typed = _line(console, "Write the plan to which file? (empty: plan.toml, -: do not write) ")
    return None if typed == "-" else Path(typed or "plan.toml")


def _ask_facts(console: Console, decisions: Mapping[str, str]) -> dict[str, Any]:
    questions = [question for question in FACTS if question.matters(decisions)]
    typed = _line(console, f"{len(questions)} facts have defaults. Go through them? (y, empty: no) ")
    if typed.lower() not in ("y", "yes"):
        return {}
    facts: dict[str, Any] = {}
    for number, question in enumerate(questions, start=1):
        answer = _ask(console, question, f"{number}/{len(questions)}")
        if answer is not None:
            facts[question.key.removeprefix("facts.")] = answer
    return facts


def _ask(console: Console, question: Question, place: str) -> Any:
    """Return a usable answer; ask again until there is one. None: the default, which is to say nothing."""
    default = default_of(question)
    console.print(Panel(_screen(question, default), title=f"{place}  {question.title}", title_align="left"))
    while True:
        typed = _line(console, "> ")
        if not typed and (default is not None or question.kind != "choice"):
            return default
        try:
            return checked_value(question.key, _meant(question, typed))
        except Misconfigured as problem:
            console.print(Text(f"{problem.message}. {problem.hint}", style="yellow"))


def _screen(question: Question, default: object) -> Text:
    text = Text(question.text)
    for number, choice in enumerate(question.choices, start=1):
        mark = "  (default)" if choice.id == default else ""
        text.append(f"\n{number:>3}  ").append(choice.label, style="bold").append(f"{mark}  {choice.id}", style="dim")
        if choice.help:
            text.append(f"\n     {choice.help}")
    if not question.choices and default is not None:
        text.append(f"\n     default: {default}", style="dim")
    return text


def _meant(question: Question, typed: str) -> object:
    """Return what was typed as a plain value; what cannot be one stays text and is refused by its type."""
    if question.kind == "choice":
        return _chosen(question, typed)
    if question.kind == "choices":
        return [_chosen(question, part) for part in typed.replace(",", " ").split()]
    if question.kind == "number":
        digits = typed.replace(",", "").replace("_", "")
        return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else typed
    if question.kind == "date":
        try:
            return date.fromisoformat(typed)
        except ValueError:
            return typed
    return typed


def _chosen(question: Question, typed: str) -> str:
    numbers = {str(number): choice.id for number, choice in enumerate(question.choices, start=1)}
    return numbers.get(typed, typed)


def _line(console: Console, prompt: str) -> str:
    try:
        return console.input(Text(prompt, style="bold")).strip()
    except EOFError:
        raise typer.Abort from None
