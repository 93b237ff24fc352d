"""``birthmark site``: an authority and its sites; what each tells the other before they work together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.adapters.received import read_received
from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, only_planned
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, facts, table
from birthmark.shell.cli.sitereport import add_commands
from birthmark.shell.cli.sitestart import init, next_ca, next_station

if TYPE_CHECKING:
    from birthmark.model.siterecords import SiteRecord
    from birthmark.shell.sites.admin import WrittenGrant
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["register", "show_grant"]


SiteArgument = Annotated[str, typer.Argument(help="Name of the site.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it goes on record.")]
ProductOption = Annotated[
    list[str] | None, typer.Option("--product", help="A product the site may make; default: as before, at first all.")
]
UrlOption = Annotated[
    str | None, typer.Option(help="https:// address of the authority's service, as the site sees it.")
]
IssuerOption = Annotated[str | None, typer.Option(help="CA that signs the site's CA; default: the only one with room.")]
DaysOption = Annotated[int, typer.Option(min=1, max=3650, help="How many days the site's CA may sign.")]
ProfileOption = Annotated[str, typer.Option(help="Profile of the site's CA: a preset or one of this workspace.")]
TitleOption = Annotated[str | None, typer.Option(help="Common name of the site's CA; default: maker and its name.")]
PlainOption = Annotated[
    bool, typer.Option("--no-name-constraints", help="For verifiers that do not know name constraints.")
]
OutputOption = Annotated[Path | None, typer.Option(help="Put the grant there as well.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    site = typer.Typer(help="An authority and the sites that work for it.", no_args_is_help=True)
    site.command("init")(init)
    site.command("add")(add)
    site.command("accept")(accept)
    site.command("delegate")(delegate)
    site.command("grant")(grant)
    site.command("ca")(next_ca)
    site.command("station")(next_station)
    site.command("list")(list_sites)
    site.command("show")(show)
    site.command("stop")(stop)
    site.command("resume")(resume)
    add_commands(site)
    app.add_typer(site, name="site")


def add(
    request: Annotated[Path, typer.Argument(help="The site's request.")],
    url: UrlOption = None,
    product: ProductOption = None,
    issuer: IssuerOption = None,
    days: DaysOption = 90,
    profile: ProfileOption = "site-ca",
    ca_name: TitleOption = None,
    no_name_constraints: PlainOption = False,
    output: OutputOption = None,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At the authority: take a site in, sign what it asked for, write its grant. Again with the same request: safe."""
    from hashlib import sha256

    from birthmark.shell.sites.admin import CaWishes, GrantWishes, delegation_facts, take_in_site
    from birthmark.shell.workspace.wiring import open_workspace

    data = read_received(request)
    ca = CaWishes(issuer=issuer, days=days, profile=profile, title=ca_name, constrained=not no_name_constraints)
    with open_workspace(workspace, publish=plan_only is None) as opened:
        facts = delegation_facts(data)
        if facts is not None and only_planned(opened, "site.delegate", facts, approval, plan_only, as_json=as_json):
            return
        written = take_in_site(opened, data, GrantWishes(products=product, url=url), ca)
    asked = sha256(data).hexdigest()
    show_grant(written, output, [f"Request SHA-256 {asked}: the site must see the same."], as_json, request=asked)


def show_grant(written: WrittenGrant, output: Path | None, before: list[str], as_json: bool, **more: object) -> None:
    """Copy a written grant to where it is wanted, and say what is in it."""
    from hashlib import sha256

    from birthmark.adapters.durable import write_durably

    if output is not None:
        write_durably(output, written.data, mode=0o644)
    grant, path, digest = written.grant, output or written.path, sha256(written.data).hexdigest()
    delegated = [ca.name for ca in grant.cas if ca.delegated]
    stations = [station.name for station in grant.stations]
    lines = [
        *before,
        f"Site {grant.site}, mode {grant.mode}: stations {', '.join(stations)}; "
        f"products {', '.join(product.name for product in grant.products) or 'none'}"
        + (f"; CA {', '.join(delegated)}" if delegated else ""),
        f"Grant: {path}\nSHA-256 {digest}",
        f"Next, at the site: birthmark site accept {path.name} --authority-vkey '{grant.vkey}'",
    ]
    document = {"site": grant.site, "mode": grant.mode, "stations": stations, "cas": delegated, "grant": str(path)}
    emit({**document, "sha256": digest, **more}, "\n".join(lines), as_json=as_json)


def accept(
    grant: Annotated[Path, typer.Argument(help="The authority's grant.")],
    authority_vkey: Annotated[str | None, typer.Option(help="Verifier key of the authority's log (its log/vkey).")] = (
        None
    ),
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At the site: check the grant, put it on record, take in certificates, profiles and products."""
    from birthmark.shell.sites.accept import take_grant
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        taken = take_grant(opened, read_received(grant), authority_vkey=authority_vkey)
    names = [product.name for product in taken.products]
    emit(
        {"site": taken.site, "authority": taken.authority, "vkey": taken.vkey, "mode": taken.mode, "products": names},
        f"Site {taken.site} works for {taken.authority}, mode {taken.mode}; products: {', '.join(names) or 'none'}.\n"
        f"Authority's log key: {taken.vkey}\nNext: birthmark bundle open FILE",
        as_json=as_json,
    )


def delegate(
    site: SiteArgument,
    name: Annotated[str, typer.Option(help="Name of the new CA, as the site named its key.")],
    csr: Annotated[Path, typer.Option(help="CSR of the CA's key, made by `birthmark site ca`.")],
    key_scheme: Annotated[str, typer.Option(help="Where the site keeps the key: pkcs11 or file.")] = "file",
    url: UrlOption = None,
    product: ProductOption = None,
    issuer: IssuerOption = None,
    days: DaysOption = 90,
    profile: ProfileOption = "site-ca",
    ca_name: TitleOption = None,
    no_name_constraints: PlainOption = False,
    output: OutputOption = None,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At the authority: sign the site's next issuing CA; its products are made by that one from then on."""
    from hashlib import sha256

    from birthmark.shell.sites.admin import CaWishes, GrantWishes, delegate_to_site
    from birthmark.shell.workspace.wiring import open_workspace

    ca = CaWishes(issuer=issuer, days=days, profile=profile, title=ca_name, constrained=not no_name_constraints)
    wishes = GrantWishes(products=product, url=url)
    request = read_received(csr)
    facts = {"ca": name, "request_sha256": sha256(request).hexdigest(), "site": site}
    with open_workspace(workspace, publish=plan_only is None) as opened:
        if only_planned(opened, "site.delegate", facts, approval, plan_only, as_json=as_json):
            return
        written = delegate_to_site(opened, site, name, request, key_scheme, wishes, ca)
    show_grant(written, output, [f"CA {name} is delegated to site {site}; it may sign for {days} days."], as_json)


def grant(
    site: SiteArgument,
    url: UrlOption = None,
    product: ProductOption = None,
    output: OutputOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At the authority: write a site's grant again, with other products or another address if you like."""
    from birthmark.shell.sites.admin import GrantWishes, write_grant
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        written = write_grant(opened, site, GrantWishes(products=product, url=url))
    show_grant(written, output, [], as_json)


def list_sites(workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """List all sites of this authority."""
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        sites = [_document(record) for record in opened.records.sites()]
    rows = [[str(s[key] or "") for key in ("site", "mode", "site_prefix", "reported", "stopped")] for s in sites]
    columns = ["site", "mode", "prefix", "entries reported", "stopped"]
    emit({"sites": sites}, table("Sites", columns, rows), as_json=as_json)


def _document(record: SiteRecord) -> dict[str, object]:
    import msgspec

    document: dict[str, object] = msgspec.to_builtins(record)
    document["log_entry"] = document.pop("seq")
    return document


def show(site: SiteArgument, workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """Show one site: its stations, CAs, orders and findings."""
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.sites.site import known_site

    with open_workspace(workspace, publish=False) as opened:
        document = {**_document(known_site(opened.records, site)), **_belongings(opened, site)}
    emit(document, facts(f"Site {site}", document), as_json=as_json)


def _belongings(workspace: Workspace, site: str) -> dict[str, object]:
    records = workspace.records
    return {
        "stations": [
            record.name
            for record in records.accesses()
            if record.site == site and record.role == "station" and record.withdrawn is None
        ],
        "cas": [record.ca for record in records.cas() if record.site == site],
        "orders": [record.order for record in records.assignments(site)],
        "findings": [record.code for record in records.findings(site)],
    }


def stop(
    site: SiteArgument, reason: ReasonOption, workspace: WorkspaceOption = Path(), as_json: JsonOption = False
) -> None:
    """Hand nothing to the site any more; what it reports is still taken in."""
    from birthmark.shell.authority.access import access_tools
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.sites.site import stop_site

    with open_workspace(workspace) as opened:
        stop_site(access_tools(opened), site, reason=reason)
    emit({"site": site, "stopped": reason}, f"Site {site} is stopped: {reason}", as_json=as_json)


def resume(
    site: SiteArgument, reason: ReasonOption, workspace: WorkspaceOption = Path(), as_json: JsonOption = False
) -> None:
    """Let a stopped site work again."""
    from birthmark.shell.authority.access import access_tools
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.sites.site import resume_site

    with open_workspace(workspace) as opened:
        resume_site(access_tools(opened), site, reason=reason)
    emit({"site": site, "stopped": None}, f"Site {site} works again: {reason}", as_json=as_json)
