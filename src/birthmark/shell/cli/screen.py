"""What people see: text, tables and progress bars, or one JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["emit", "progress_bar", "table", "visible"]


def visible(text: str) -> str:
    """Return text with everything a terminal would act on escaped: serials and files come from others."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def emit(document: Mapping[str, object], text: str | Table, *, as_json: bool) -> None:
    """Print the document as one JSON line, or the text for people."""
    if as_json:
        print(json.dumps(document, sort_keys=True), flush=True)
        return
    if isinstance(text, str):
        print(visible(text), flush=True)
        return
    from rich.console import Console

    Console().print(text)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for people."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(visible(title), style="table.title"), title_justify="left", show_header=any(columns))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(visible(cell)) for cell in row))
    return made


@contextmanager
def progress_bar(what: str, *, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(count)``; draws count, rate and remaining time on stderr unless ``quiet``."""
    if quiet:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from birthmark.shell.cli.rate import RateColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
