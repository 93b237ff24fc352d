"""``birthmark line``: the view of the operator at one place on the line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.shell.cli.options import WorkspaceOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("line")(line)


def line(
    target: Annotated[str, typer.Option(help="Where the identity goes; {device_serial} is what is scanned.")],
    station: Annotated[str | None, typer.Option(help="Name of this station; default: the only one there is.")] = None,
    handshake: Annotated[
        bool, typer.Option("--handshake", help="Prove it with a real mutual-TLS connection as well.")
    ] = False,
    workspace: WorkspaceOption = Path(),
) -> int:
    """Scan, see PASS or FAIL and what to do, take the next device. Ctrl+Q ends the shift and prints its count."""
    from birthmark.adapters.extras import require_extra

    require_extra("line", "textual")
    from birthmark.shell.line.session import open_line
    from birthmark.shell.lineview.app import LineView

    with open_line(workspace, station) as opened:
        view = LineView(opened, target, handshake=handshake)
        failed = view.run() or 0
    shift = view.shift
    share = "no units" if shift.share is None else f"yield {100 * shift.share:.1f} %"
    print(f"{shift.passed} passed, {shift.failed} failed: {share}")
    for code, count in shift.codes.most_common():
        print(f"  {count:>6}  {code}")
    return 4 if failed else 0
