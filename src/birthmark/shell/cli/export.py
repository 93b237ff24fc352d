"""``birthmark export``: what was made and what ended, for any registry, from a cursor on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, progress_bar

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command of this noun."""
    app.command("export")(export)


def export(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new directory for the files; without it JSON lines go to stdout."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="The cursor of the last export; default: from the start.")] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Tell a registry which devices were verified, revoked, superseded or scrapped since a cursor."""
    from birthmark.shell.register.export import change_feed, export_directory
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.wire.registry import change_text, parse_cursor

    cursor = None if since is None else parse_cursor(since)
    with open_workspace(workspace) as opened:
        feed = change_feed(opened)
        if cursor is not None:
            feed.require(cursor)
        first, head = 0 if cursor is None else cursor.size, feed.head()
        if output is None:
            for line in feed.changes(first, head.size):
                sys.stdout.buffer.write(change_text(line))
            sys.stdout.buffer.write(json.dumps({"next": head.text()}).encode() + b"\n")
            sys.stdout.flush()
            return
        with progress_bar("log entries", total=head.size - first, quiet=as_json) as advance:
            manifest = export_directory(opened, feed, output, since=cursor, progress=advance)
    document = {
        "directory": str(output),
        "changes": manifest.changes,
        "verified": manifest.verified,
        "first": manifest.first,
        "size": manifest.size,
        "next": manifest.next,
    }
    text = (
        f"{manifest.changes:,} changes, {manifest.verified:,} of them verified devices, are in {output}\n"
        f"Next time: birthmark export --since {manifest.next} -o …"
    )
    emit(document, text, as_json=as_json)
