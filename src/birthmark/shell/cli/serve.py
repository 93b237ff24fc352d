"""``birthmark serve``: the authority's service for its sites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.shell.cli.options import WorkspaceOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen at; default: that of the settings.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. Default: that of the settings.")] = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Serve sites over HTTPS until SIGTERM or Ctrl-C; what was asked by then is answered first.

    The log of requests is JSON lines on stderr.
    """
    from birthmark.shell.api.server import serve as run
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        run(opened, host=host, port=port, ready=lambda address: print(f"serving {address}", flush=True))
