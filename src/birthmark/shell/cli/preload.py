"""``birthmark preload``: identities that a chip vendor made before the chips came here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, only_planned
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, table

__all__ = ["register"]

VendorArgument = Annotated[str, typer.Argument(help="The vendor, as [vendors.NAME] in birthmark.toml.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    preload = typer.Typer(help="Identities that a chip vendor preloads.", no_args_is_help=True)
    preload.command("ingest")(ingest)
    preload.command("delegate")(delegate)
    preload.command("show")(show)
    app.add_typer(preload, name="preload")


def ingest(
    vendor: VendorArgument,
    file: Annotated[Path, typer.Argument(help="Signed JSON, PEM or CSV list, zip, tar, or a directory.")],
    accept_short_keys: Annotated[
        bool, typer.Option("--accept-short-keys", help="Take coordinates without leading zeros, if x5c agrees.")
    ] = False,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Check a vendor's manifest whole and record its identities, or nothing. The same file again changes nothing."""
    from birthmark.shell.sites.preload import ingest_manifest, manifest_name
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=plan_only is None) as opened:
        approved = None
        if plan_only is not None or approval is not None or _is_guarded(opened):
            approved = manifest_name(opened, vendor, file)
            facts = {"manifest_sha256": approved, "vendor": vendor}
            if only_planned(opened, "preload.ingest", facts, approval, plan_only, as_json=as_json):
                return
        taken = ingest_manifest(opened, vendor, file, accept_short=accept_short_keys, approved=approved)
    said = "are on record as preloaded" if taken.new else "were on record already; nothing changed"
    emit(
        {
            "vendor": vendor,
            "manifest_sha256": taken.manifest_sha256,
            "devices": taken.count,
            "new": taken.new,
            "cas": list(taken.cas),
        },
        f"{taken.count:,} identities of {vendor} {said}.\nManifest SHA-256 {taken.manifest_sha256}\n"
        "Next: birthmark order create … --key-origin preloaded, then birthmark station bind …",
        as_json=as_json,
    )


def _is_guarded(opened: object) -> bool:
    from birthmark.shell.authority.approvals import is_guarded

    return is_guarded(opened)  # type: ignore[arg-type]


def delegate(
    vendor: VendorArgument,
    name: Annotated[str, typer.Option(help="Name of the new CA: lower-case letters, digits, hyphens.")],
    csr: Annotated[Path, typer.Option(help="CSR of the key that the vendor will sign with.")],
    product: Annotated[str, typer.Option(help="The product whose chips it signs; it sets names and lifetimes.")],
    quota: Annotated[int, typer.Option(help="How many identities it may sign in all.")],
    output: Annotated[Path, typer.Option(help="Where the certificate goes (PEM).")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="For how many days it may sign.")] = 90,
    issuer: Annotated[str | None, typer.Option(help="The CA that signs it; default: the only one that can.")] = None,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make the constrained signing certificate that a vendor signs its chips' certificates with."""
    from hashlib import sha256

    from birthmark.adapters.durable import write_durably
    from birthmark.adapters.received import read_received
    from birthmark.shell.authority.access import certificate_pem
    from birthmark.shell.sites.preload import delegate_vendor_ca, vendor_ca
    from birthmark.shell.workspace.wiring import open_workspace

    request = read_received(csr)
    ca = vendor_ca(vendor, name)
    facts = {"ca": ca, "quota": str(quota), "request_sha256": sha256(request).hexdigest(), "vendor": vendor}
    with open_workspace(workspace, publish=plan_only is None) as opened:
        if only_planned(opened, "preload.delegate", facts, approval, plan_only, as_json=as_json):
            return
        certificate = delegate_vendor_ca(
            opened, vendor, name, request, product=product, quota=quota, days=days, issuer=issuer
        )
        write_durably(output, certificate_pem(certificate), mode=0o644)
    digest = sha256(certificate).hexdigest()
    emit(
        {"ca": ca, "vendor": vendor, "quota": quota, "cert_sha256": digest, "certificate": str(output)},
        f"{vendor} may sign {quota:,} identities within {days} days with {ca}.\n"
        f"Certificate: {output}\nSHA-256 {digest}",
        as_json=as_json,
    )


def show(
    ca: Annotated[str | None, typer.Option(help="Print the certificate of a delegated CA (PEM).")] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Show what vendors preloaded, what of it is bound, and what they may still sign."""
    from birthmark.shell.authority.access import certificate_pem
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        if ca is not None:
            print(certificate_pem(opened.ca_certificate(ca)).decode(), end="")
            return
        counts = [{"vendor": v, "preloaded": n, "bound": b} for v, n, b in opened.records.preload_counts()]
        cas = [{"ca": c, "vendor": v, "quota": q, "used": u} for c, v, q, u in opened.records.vendor_cas()]
    rows = [[str(row["vendor"]), str(row["preloaded"]), str(row["bound"])] for row in counts]
    rows += [[str(row["ca"]), f"{row['used']} of {row['quota']} signed", ""] for row in cas]
    emit({"vendors": counts, "cas": cas}, table("Preloaded", ["vendor or CA", "identities", "bound"], rows),
         as_json=as_json)  # fmt: skip
