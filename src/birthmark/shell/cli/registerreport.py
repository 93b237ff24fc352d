"""What ``birthmark register`` shows: a plan as a table, a line for each cloud while it runs, and what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from birthmark.shell.cli.screen import console, emit, say, table, visible

if TYPE_CHECKING:
    from birthmark.shell.register.plan import RegisterPlan
    from birthmark.shell.register.runs import CloudRun

__all__ = ["follow_runs", "show_estimate", "show_runs"]

_KINDS = (("done", "told"), ("same", "known already"), ("covered", "covered by their CA"), ("refused", "refused"))


def show_estimate(made: RegisterPlan, *, as_json: bool) -> None:
    """Show the steps of a plan with their calls and minutes, and its obstacles."""
    estimate = made.estimate
    calls = sum(step.calls for step in estimate.steps)
    minutes = sum(step.minutes for step in estimate.steps)
    document = {
        "cloud": made.cloud,
        "devices": made.devices,
        "authorities": made.authorities,
        "calls": calls,
        "minutes": round(minutes, 2),
        "steps": [
            {"what": step.what, "calls": step.calls, "minutes": round(step.minutes, 2), "why": step.why}
            for step in estimate.steps
        ],
        "obstacles": [{"code": one.code, "message": one.message, "hint": one.hint} for one in estimate.obstacles],
    }
    if as_json:
        emit(document, "", as_json=True)
        return
    from rich.table import Table
    from rich.text import Text

    cas = "1 CA" if made.authorities == 1 else f"{made.authorities:,} CAs"
    shown = Table(title=Text(visible(f"{made.cloud}: {made.devices:,} devices of {cas}")), title_justify="left")
    for column, style in (("step", "bold"), ("calls", "cyan"), ("minutes", "green"), ("why", "dim")):
        shown.add_column(column, style=style, overflow="fold", justify="left" if style in ("bold", "dim") else "right")
    for step in estimate.steps:
        shown.add_row(*map(_cell, (step.what, f"{step.calls:,}", f"{step.minutes:,.1f}", step.why)))
    shown.add_section()
    shown.add_row("together", f"{calls:,}", f"{minutes:,.1f}", "")
    screen = console()
    screen.print(shown)
    for one in estimate.obstacles:
        screen.print(Text("✗ ", style="bold red") + Text(visible(f"{one.message} [{one.code}]")))
        screen.print(Text(f"  → {visible(one.hint)}", style="red"))


def _cell(text: str) -> str:
    from rich.markup import escape

    return escape(visible(text))


@contextmanager
def follow_runs(names: Sequence[str], *, quiet: bool) -> Iterator[Callable[[str, int, int, int], None]]:
    """Yield what is told how many devices of a cloud became due, were settled, were parked; it draws a line a cloud."""
    if quiet or not sys.stderr.isatty():
        yield lambda name, due, settled, parked: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from birthmark.shell.cli.rate import RateColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("[yellow]{task.fields[parked]} parked"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {name: bars.add_task(name, total=0, parked=0) for name in names}

        def tell(name: str, due: int, settled: int, parked: int) -> None:
            task = bars.tasks[tasks[name]]
            bars.update(
                tasks[name],
                total=(task.total or 0) + due,
                advance=settled + parked,
                parked=task.fields["parked"] + parked,
            )

        yield tell


def show_runs(runs: Sequence[CloudRun], *, as_json: bool) -> None:
    """Show what became of the devices, for each cloud."""
    documents = [
        {
            "name": one.name,
            "cloud": one.cloud,
            **{kind: one.counts.outcomes[kind] for kind, _ in _KINDS},
            "calls": one.counts.calls,
            "repeated": one.counts.repeated,
            "repeated_calls": one.counts.repeated_calls,
            "back_offs": one.counts.back_offs,
            "left": one.left,
            "parked": one.parked,
            "error": None if one.problem is None else one.problem.code,
        }
        for one in runs
    ]
    if as_json:
        emit({"clouds": documents}, "", as_json=True)
        return
    rows = [[one.name, *(f"{one.counts.outcomes[kind]:,}" for kind, _ in _KINDS), f"{one.parked:,}",
             f"{one.left:,}", f"{one.counts.calls:,}"] for one in runs]  # fmt: skip
    columns = ["cloud", *(words for _, words in _KINDS), "parked", "left", "calls"]
    emit({}, table("Registered", columns, rows), as_json=False)
    for one in runs:
        if one.problem is not None:
            print(visible(f"{one.name}: {one.problem}"))
        elif not one.parked and not one.left:
            say(f"Next: birthmark register reconcile {one.name}")
