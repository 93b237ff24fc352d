"""``birthmark agent``: a station for test executives that speak HTTP, and a page that shows its heads live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.shell.cli.options import WorkspaceOption

__all__ = ["register"]

_PORT = 8477


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("agent")(agent)


def agent(
    head: Annotated[
        list[str], typer.Option(help="NAME=URI: a head and its target, with {device_serial}; may be repeated.")
    ],
    station: Annotated[str | None, typer.Option(help="Name of this station; default: the only one there is.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = _PORT,
    unix_socket: Annotated[Path | None, typer.Option(help="Listen at this Unix socket instead.")] = None,
    new_token: Annotated[bool, typer.Option("--new-token", help="Make a new token; the old one ends.")] = False,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Serve this machine's test executive over HTTP until SIGTERM or Ctrl-C; never another machine.

    Prints the address, the file of the token and a link that opens the page of the heads once. The log of requests is
    JSON lines on stderr.
    """
    from birthmark.adapters.extras import require_extra

    require_extra("serve", "uvicorn")
    from birthmark.shell.agent.server import AgentPlace, parse_heads, serve_agent
    from birthmark.shell.line.session import open_line

    heads = parse_heads(head)
    place = AgentPlace(workspace.absolute(), port=port, unix_socket=unix_socket, new_token=new_token)

    def ready(address: str, link: str) -> None:
        print(f"agent {address}\ntoken {place.token_file}", flush=True)
        if unix_socket is None:
            print(f"page {link}", flush=True)

    with open_line(workspace, station) as line:
        serve_agent(line, heads, place, ready=ready)
