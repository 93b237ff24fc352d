"""``birthmark access``: who is let in to the workspace's service, and with which certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from birthmark.adapters.received import read_received
from birthmark.errors import Misconfigured
from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, only_planned
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, table

if TYPE_CHECKING:
    from birthmark.model.siterecords import AccessRecord
    from birthmark.pki.csr import Csr

__all__ = ["register"]

PersonRole = Literal["operator", "approver", "auditor"]
_ROLES: dict[str, PersonRole] = {"operator": "operator", "approver": "approver", "auditor": "auditor"}
DaysOption = Annotated[int, typer.Option(min=1, max=7000, help="How many days the certificate is valid.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    access = typer.Typer(help="Who is let in to the service, and its own certificate.", no_args_is_help=True)
    access.command("list")(list_access)
    access.command("grant")(grant)
    access.command("withdraw")(withdraw)
    access.command("server")(server)
    app.add_typer(access, name="access")


def list_access(workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """List every key that was ever let in."""
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        records = opened.records.accesses()
    rows = [[r.name, r.role, r.site or "", r.spki_sha256[:16], r.withdrawn or ""] for r in records]
    document = {"access": [_document(record) for record in records]}
    emit(document, table("Access", ["name", "role", "site", "key", "withdrawn"], rows), as_json=as_json)


def _document(record: AccessRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "role": record.role,
        "site": record.site,
        "spki_sha256": record.spki_sha256,
        "withdrawn": record.withdrawn,
        "log_entry": record.seq,
    }


def grant(
    role: Annotated[str, typer.Option(help="operator, approver or auditor.")],
    csr: Annotated[Path, typer.Option(help="Certificate request (PKCS#10, PEM or DER) of that person.")],
    output: Annotated[Path, typer.Option(help="Where the certificate goes (PEM, with the access CA behind it).")],
    name: Annotated[str | None, typer.Option(help="Name of the person; default: the common name of the CSR.")] = None,
    days: DaysOption = 730,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Let a person in: sign the certificate for the key of the request, on record before it leaves."""
    from hashlib import sha256

    from birthmark.adapters.durable import write_durably
    from birthmark.pki.csr import parse_csr
    from birthmark.shell.authority.access import access_tools, certificate_pem
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.authority.access import access_issuer, grant_access, sign_client

    request = parse_csr(read_received(csr))
    called, role_named = name or _common_name(request), _role(role)
    facts = {"name": called, "role": role, "spki_sha256": sha256(request.spki).hexdigest()}
    with open_workspace(workspace, publish=plan_only is None) as opened, opened.lock("access"):
        if only_planned(opened, "access.grant", facts, approval, plan_only, as_json=as_json):
            return
        tools = access_tools(opened)
        signed = sign_client(tools, name=called, role=role_named, csr=request, days=days)
        granted = grant_access(tools, signed)
        whole = certificate_pem(granted.certificate, access_issuer(tools).chain_der[0])
    write_durably(output, whole, mode=0o644)
    emit(
        {"name": granted.name, "role": granted.role, "certificate": str(output)},
        f"{granted.name} is let in as {granted.role}. Certificate: {output}\n"
        f"Take it back with: birthmark access withdraw {granted.name} --reason TEXT",
        as_json=as_json,
    )


def _role(text: str) -> PersonRole:
    if text not in _ROLES:
        raise Misconfigured(
            "access.role",
            f"no role {text[:40]!r} can be granted to a person",
            hint="Use operator, approver or auditor; stations come in with `birthmark station add`.",
        )
    return _ROLES[text]


def _common_name(csr: Csr) -> str:
    from cryptography.x509.oid import NameOID

    return next((str(value) for oid, value in csr.names if oid == NameOID.COMMON_NAME.dotted_string), "")


def withdraw(
    name: Annotated[str, typer.Argument(help="Name of a person, SITE/STATION, or the SPKI SHA-256 of one key.")],
    reason: Annotated[str, typer.Option(help="Why; it goes on record.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Let the keys of a name in no more, from now on."""
    from birthmark.shell.authority.access import access_tools
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.authority.access import withdraw_access

    with open_workspace(workspace) as opened:
        records = withdraw_access(access_tools(opened), name, reason=reason)
    keys = [record.spki_sha256 for record in records]
    emit({"name": name, "withdrawn": keys}, f"{name}: {len(keys)} keys are let in no more.", as_json=as_json)


def server(
    name: Annotated[list[str], typer.Option(help="DNS name or IP address of the service; repeat for more.")],
    days: DaysOption = 730,
    listen: Annotated[
        str | None, typer.Option(help="Address to listen at; default: as before, at first 127.0.0.1.")
    ] = (None),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; default: as before, at first 8443.")] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make key and certificate of this workspace's service, below serve/, and its settings."""
    from birthmark.shell.authority.access import make_server_certificate, write_serve_settings
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        made = [str(path) for path in make_server_certificate(opened, name, days=days)]
        settings = write_serve_settings(opened, listen=listen, port=port)
    lines = [f"The service is {', '.join(name)}.", *(f"wrote {path}" for path in made)]
    if settings is None:
        lines.append("birthmark.toml has a table [serve]: see that it names these files.")
    else:
        lines.append(f"wrote {settings}")
    lines.append("Next: birthmark serve")
    document = {"hosts": name, "files": made, "settings": None if settings is None else str(settings)}
    emit(document, "\n".join(lines), as_json=as_json)
