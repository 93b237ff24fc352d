"""``birthmark site``: the sites of an authority, and their reports."""

from __future__ import annotations

import typer

from birthmark.shell.cli.sitereport import add_commands

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    site = typer.Typer(help="Sites that work for this authority.", no_args_is_help=True)
    add_commands(site)
    app.add_typer(site, name="site")
