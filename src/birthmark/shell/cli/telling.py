"""How the demos speak: a headline, a few sentences, an even left margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["indent", "plain_table", "say"]


def say(console: Console, title: str, text: str) -> None:
    """Print a headline and what it means."""
    console.print(f"[bold cyan]■ {title}[/]")
    indent(console, text)
    console.print()


def indent(console: Console, text: str, left: int = 2) -> None:
    """Print text that keeps its left margin when it is folded."""
    from rich.padding import Padding

    console.print(Padding(text, (0, 0, 0, left)))


def plain_table(console: Console, columns: list[str], rows: list[list[str]]) -> None:
    """Print rows under column heads without lines, numbers to the right, and a blank line after them."""
    from rich.padding import Padding
    from rich.table import Table

    made = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        figures = all(row[number].replace(",", "").isdigit() for row in rows)
        made.add_column(column, overflow="fold", justify="right" if figures else "left")
    for row in rows:
        made.add_row(*row)
    console.print(Padding(made, (0, 0, 1, 2)))
