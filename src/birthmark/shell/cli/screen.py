"""What people see: text, tables and progress bars, or one JSON document."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from birthmark.shell.cli.following import GIVEN, next_lines

if TYPE_CHECKING:
    from rich.console import Console, Group

__all__ = ["console", "emit", "fact", "facts", "progress_bar", "say", "table", "visible"]

_UNFOLDED = 10_000
"""Columns of what is no terminal: a table in a pipe is as wide as it is, so that `grep` finds whole names in it."""


def visible(text: str) -> str:
    """Return text with everything a terminal would act on escaped: serials and files come from others."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def emit(document: Mapping[str, object], text: str | Group, *, as_json: bool) -> None:
    """Print the document as one JSON line, or the text for people."""
    if as_json:
        print(json.dumps(document, sort_keys=True), flush=True)
    elif isinstance(text, str):
        say(text)
    else:
        console().print(text)


def say(text: str) -> None:
    """Print text for people; a command in it that comes next names the workspace that this one was given."""
    print(visible(next_lines(text, GIVEN.get())), flush=True)


def console() -> Console:
    """Return standard output as rich writes to it: folded to a terminal, or to COLUMNS, and whole in a pipe."""
    from rich.console import Console

    made = Console()
    return made if made.is_terminal or "COLUMNS" in os.environ else Console(width=_UNFOLDED)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Group:
    """Return a table for people, below its title: numbers to the right, no lines that cost width, words kept whole.

    Without names of columns it is one of facts: a name and its value in each row.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    heading = Text(visible(title), style="bold")
    if not rows:
        return Group(heading, Text("  none", style="dim"))
    named = any(columns)
    made = Table(
        box=box.SIMPLE_HEAD if named else None,
        show_header=named,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if named else 2, 0, 0),
    )
    for at, column in enumerate(columns):
        count = named and all(_is_count(row[at]) for row in rows)
        made.add_column(
            Text(visible(column), style="bold"),
            overflow="fold",
            no_wrap=count or (not named and at == 0),
            justify="right" if count else "left",
        )
    for row in rows:
        made.add_row(*(Text(visible(cell)) for cell in row))
    return Group(heading, made)


def facts(title: str, document: Mapping[str, object]) -> Group:
    """Return a table of facts by name, as people write them: yes and no, nothing for what is not there."""
    return table(title, ["", ""], [[name, fact(value)] for name, value in document.items()])


def fact(value: object) -> str:
    """Return a fact as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _is_count(cell: str) -> bool:
    return cell == "" or cell.replace(",", "").isdecimal()


@contextmanager
def progress_bar(what: str, *, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(count)``; draws count, rate and remaining time on a terminal at stderr, unless ``quiet``."""
    if quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from birthmark.shell.cli.rate import RateColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
