"""``birthmark ca``: CAs that others sign, revocation lists, and what is known of every CA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, only_planned
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, facts, table

if TYPE_CHECKING:
    from birthmark.model.records import CaRecord

__all__ = ["register"]

NameArgument = Annotated[str, typer.Argument(help="Name of the CA, as in birthmark.toml.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    cas = typer.Typer(help="CAs: requests, imports, revocation lists.", no_args_is_help=True)
    cas.command("csr")(csr)
    cas.command("import")(import_)
    cas.command("list")(list_cas)
    cas.command("show")(show)
    cas.command("export")(export)
    cas.command("crl")(crl)
    app.add_typer(cas, name="ca")


def csr(
    name: NameArgument,
    subject: Annotated[str, typer.Option(help='Name of the CA, as in RFC 4514: "CN=Acme Device CA,O=Acme".')],
    new_key: Annotated[str | None, typer.Option(help="Make the key first: p256, p384, rsa3072 …")] = None,
    path_length: Annotated[int | None, typer.Option(min=0, max=4, help="CAs below it that are asked for.")] = 0,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write the certificate request of a CA whose certificate somebody else signs."""
    from birthmark.shell.authority.authorities import request_ca
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        path = request_ca(opened, name, subject=subject, new_key=new_key, path_length=path_length)
    emit(
        {"ca": name, "request": str(path)},
        f"Request of CA {name}: {path}\nSend it to whoever signs. Next: birthmark ca import {name} FILE…",
        as_json=as_json,
    )


def import_(
    name: NameArgument,
    files: Annotated[list[Path], typer.Argument(help="Its certificate and those above it: PEM, DER or PKCS#7.")],
    chain: Annotated[list[Path] | None, typer.Option(help="More files with certificates above it.")] = None,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Take in a CA that somebody else signed, or that signs for us as a service; everything about it is checked."""
    from birthmark.shell.authority.authorities import import_ca, import_facts
    from birthmark.shell.workspace.wiring import open_workspace

    paths = [*files, *(chain or [])]
    with open_workspace(workspace, publish=plan_only is None) as opened:
        facts = import_facts(name, paths)
        if only_planned(opened, "ca.import", facts, approval, plan_only, as_json=as_json):
            return
        done = import_ca(opened, name, paths)
    emit(
        {"ca": name, "kind": done.kind, "above": list(done.above), "root_sha256": done.root_sha256},
        f"CA {name} ({done.kind}) is on record, below {', '.join(done.above) or 'nobody'}.\n"
        f"Compare the root with what its owner publishes: SHA-256 {done.root_sha256}\n"
        f"Next: birthmark order create …",
        as_json=as_json,
    )


def list_cas(workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """List all CAs on record."""
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        documents = [_document(record) for record in opened.records.cas()]
    columns = ["ca", "kind", "issuer", "site", "subject", "not_after"]
    # Of its end a CA shows the day: the table fits into a terminal then.
    days = [{**document, "not_after": str(document["not_after"])[: len("2026-01-01")]} for document in documents]
    rows = [[str(document[column] or "") for column in columns] for document in days]
    emit({"cas": documents}, table("CAs", columns, rows), as_json=as_json)


def show(name: NameArgument, workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """Show one CA: its certificate, who signed it, how many of its devices' certificates are revoked."""
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        opened.ca_certificate(name)
        record = opened.records.ca(name)
        document = {**_document(record), "revoked": len(opened.records.revocations(name))}
    emit(document, facts(f"CA {name}", document), as_json=as_json)


def export(
    name: NameArgument,
    output: Annotated[Path, typer.Option(help="File for the chain: the CA first, its root last (PEM).")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write the chain of a CA, for those who verify its devices."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from birthmark.adapters.durable import write_durably
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        chain = opened.chain(name)
    pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
    write_durably(output, pem, mode=0o644)
    emit(
        {"ca": name, "certificates": len(chain), "file": str(output)},
        f"{len(chain)} certificates of CA {name}: {output}",
        as_json=as_json,
    )


def crl(
    name: NameArgument,
    days: Annotated[int, typer.Option(help="For how many days the list is valid.")] = 7,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write the revocation list of a CA from what is on record."""
    from cryptography import x509

    from birthmark.pki.crl import read_crl
    from birthmark.shell.authority.authorities import publish_crl
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        path = publish_crl(opened, name, days=days)
        said = read_crl(path.read_bytes(), x509.load_der_x509_certificate(opened.ca_certificate(name)))
    emit(
        {
            "ca": name,
            "file": str(path),
            "revoked": said.entries,
            "number": str(said.number),
            "next_update": said.next_update.isoformat(),
        },
        f"Revocation list of CA {name}: {path}\n"
        f"{said.entries:,} certificates, valid until {said.next_update:%F %T} UTC.\n"
        f"Next: publish it where the profile's CRL address points, and make the next one before it ends.",
        as_json=as_json,
    )


def _document(record: CaRecord) -> dict[str, object]:
    from hashlib import sha256

    from cryptography import x509

    certificate = x509.load_der_x509_certificate(record.certificate)
    return {
        "ca": record.ca,
        "kind": record.kind,
        "issuer": record.issuer,
        "site": record.site,
        "subject": certificate.subject.rfc4514_string(),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "cert_sha256": sha256(record.certificate).hexdigest(),
        "entry": record.seq,
    }
