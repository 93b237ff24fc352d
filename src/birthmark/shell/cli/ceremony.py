"""``birthmark ceremony``: one reviewed file makes root and issuing CAs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    ceremony = typer.Typer(help="Root and issuing CAs from one reviewed file.", no_args_is_help=True)
    ceremony.callback()(_ceremony)
    ceremony.command("run")(run)
    app.add_typer(ceremony, name="ceremony")


def _ceremony() -> None:
    """Root and issuing CAs from one reviewed file."""


def run(
    file: Annotated[Path, typer.Argument(help="The ceremony file.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make the CAs of the file, sign the transcript, put certificates and transcript into ca/."""
    from birthmark.shell.ceremony import hold_ceremony
    from birthmark.shell.wiring import open_workspace

    try:
        source = file.read_bytes()
    except OSError as problem:
        raise Misconfigured(
            "ceremony.missing",
            f"cannot read {file}: {problem.strerror}",
            hint="`birthmark init` writes a ceremony.toml to start from.",
            path=str(file),
        ) from problem
    with open_workspace(workspace) as opened:
        result = hold_ceremony(opened, source)
    names = [name for name, _ in result.certificates]
    text = result.transcript.decode()
    lines = [
        text,
        *(f"wrote {workspace}/ca/{name}.pem" for name in names),
        f"wrote {workspace}/ca/transcript-{names[0]}.txt",
    ]
    lines += ["Next: birthmark order create NAME --product PRODUCT --quantity N --first SERIAL"]
    emit({"cas": names, "transcript": text}, "\n".join(lines), as_json=as_json)
