"""Help of a noun: what each of its commands does, a whole sentence of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter

__all__ = ["Commands"]

_WHOLE = 1_000


class Commands(TyperGroup):
    """A noun whose help wraps what does not fit into a line; Typer would cut it off."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write each command with the first sentence about it."""
        rows = [(name, one.get_short_help_str(_WHOLE)) for name, one in self.commands.items() if not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
