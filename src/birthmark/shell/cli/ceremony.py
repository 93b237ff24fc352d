"""``birthmark ceremony``: one reviewed file makes, delegates, replaces and destroys CA keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, write_plan_only
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, table

if TYPE_CHECKING:
    from birthmark.workflow.authority.ceremonycheck import PlannedStep

__all__ = ["register"]

FileArgument = Annotated[Path, typer.Argument(help="The ceremony file.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    ceremony = typer.Typer(help="CA keys from one reviewed file.", no_args_is_help=True)
    ceremony.callback()(_ceremony)
    ceremony.command("check")(check)
    ceremony.command("run")(run)
    ceremony.command("sign")(sign)
    app.add_typer(ceremony, name="ceremony")


def _ceremony() -> None:
    """CA keys from one reviewed file."""


def check(file: FileArgument, workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """Rehearse the ceremony with throw-away keys and show what it will do; what cannot work is refused."""
    from birthmark.shell.authority.ceremony import ceremony_facts, rehearse_ceremony
    from birthmark.shell.workspace.wiring import open_workspace

    source = _read(file)
    with open_workspace(workspace, publish=False) as opened:
        rows = rehearse_ceremony(opened, source, base=file.parent)
    facts = ceremony_facts(source)
    title = f"{facts['title']}: nothing was done. SHA-256 of the file {facts['ceremony_sha256']}"
    acts = [{"act": row.act, "ca": row.ca, **dict(row.facts)} for row in rows]
    emit({**facts, "acts": acts}, table(title, ["", "act", "CA", ""], _cells(rows)), as_json=as_json)


def _cells(rows: list[PlannedStep]) -> list[list[str]]:
    return [
        [str(number), row.act, row.ca, "\n".join(f"{name}: {value}" for name, value in row.facts)]
        for number, row in enumerate(rows, 1)
    ]


def run(
    file: FileArgument,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Do what the file says, sign the transcript, put certificates and transcripts into ca/."""
    from birthmark.shell.authority.ceremony import ceremony_facts, hold_ceremony, rehearse_ceremony, unnamed_cas
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.authority.ceremony import parse_ceremony

    source = _read(file)
    with open_workspace(workspace, publish=plan_only is None) as opened:
        if plan_only is not None:
            rehearse_ceremony(opened, source, base=file.parent)
            write_plan_only(opened, "ceremony.run", ceremony_facts(source), plan_only, as_json=as_json)
            return
        result = hold_ceremony(opened, source, base=file.parent, approval_file=approval)
        settings = unnamed_cas(opened, parse_ceremony(source))
    lines = [transcript.decode() for _, transcript in result.transcripts]
    lines += [f"wrote {workspace}/ca/{name}.pem" for name, _ in result.certificates]
    lines += [f"wrote {workspace}/ca/{name}" for name, _ in result.transcripts]
    if settings:
        lines += ["Add to birthmark.toml, so that the new CAs can be used:", *(f"  {line}" for line in settings)]
    first = result.transcripts[0][0] if result.transcripts else None
    if first is not None:
        lines.append(f"Who took part signs: birthmark ceremony sign {workspace}/ca/{first} --key URI --name NAME")
    lines += ["Next: birthmark order create NAME --product PRODUCT --quantity N --first SERIAL"]
    document = {
        "cas": [name for name, _ in result.certificates],
        "destroyed": list(result.destroyed),
        "transcripts": [name for name, _ in result.transcripts],
        "settings": settings,
    }
    emit(document, "\n".join(lines), as_json=as_json)


def sign(
    transcript: Annotated[Path, typer.Argument(help="The transcript in ca/.")],
    key: Annotated[str, typer.Option(help="URI of your own Ed25519 key: file: or pkcs11:.")],
    name: Annotated[str, typer.Option(help="Name of your key: your account, or account@organisation.")],
    as_json: JsonOption = False,
) -> None:
    """Sign the transcript as somebody who took part. What the log recorded of it does not change."""
    from birthmark.shell.authority.approvals import read_document, sign_file
    from birthmark.shell.workspace.secrets import SecretsResolver
    from birthmark.wire.approval import signature_lines
    from birthmark.workflow.authority.transcript import recorded_part, transcript_text

    data = read_document(transcript)
    text = transcript_text(data)
    if not as_json:
        emit({}, text, as_json=False)
    sign_file(transcript, text, data, name=name, key=key, secrets=SecretsResolver())
    document = {
        "transcript_sha256": recorded_part(data)[1],
        "signed_by": [*signature_lines(data), name],
    }
    emit(document, f"{name} signed {transcript}.", as_json=as_json)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as problem:
        raise Misconfigured(
            "ceremony.missing",
            f"cannot read {file}: {problem.strerror}",
            hint="A new workspace has ceremony.toml in it: name that file as it is seen from here (fab/ceremony.toml).",
            path=str(file),
        ) from problem
