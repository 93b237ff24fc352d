"""At a site: a grant becomes certificates, profiles and settings of the workspace.

The record comes first, then the files, all of them made from the grant alone; ``grant.note``, the grant in force,
comes last. Whatever a power cut interrupts, the same command again ends in the same state.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark.adapters.durable import write_durably
from birthmark.errors import Misconfigured
from birthmark.shell.authority.access import certificate_pem, require_role
from birthmark.shell.sites.setup import station_tls_uri
from birthmark.shell.workspace.config import PART_FORMAT, PARTS_NAME, parse_part
from birthmark.shell.workspace.settingstext import toml_key, toml_text
from birthmark.wire.site import Grant, GrantedProduct, open_grant
from birthmark.workflow.sites.siteaccept import AcceptTools, SiteTerms, accept_grant, check_grant

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["GRANT_NAME", "take_grant"]

GRANT_NAME = "grant.note"
_PART_NAME = "grant.toml"
_SERVICE_CA = "tls/service-ca.pem"


def take_grant(workspace: Workspace, data: bytes, *, authority_vkey: str | None) -> Grant:
    """Check a grant, put it on record and write what it brings; return it.

    The first grant is trusted for the key it names, unless ``authority_vkey`` says which one it must be; later ones
    must be signed by the key on record.
    """
    require_role(workspace, "site")
    site = workspace.settings.site
    assert site is not None  # noqa: S101  the settings keep it for the role site
    known = workspace.records.authority()
    if known is not None and authority_vkey not in (None, known.vkey):
        open_grant(data, authority_vkey)
    grant = open_grant(data, authority_vkey if known is None else known.vkey)
    terms = SiteTerms(workspace.settings.name, site.authority, workspace.settings.site_prefix, site.mode)
    with workspace.lock("grant"):
        in_force = _last(workspace)
        last = None if in_force is None or known is None else open_grant(in_force, known.vkey)
        tools = _tools(workspace)
        part = _part_text(grant)
        parse_part(part, f"{PARTS_NAME}/{_PART_NAME}")
        check_grant(tools, grant, terms, last=last)
        accept_grant(tools, grant, data, repeated=in_force == data)
        _write_files(workspace.root, grant, part)
        write_durably(workspace.root / GRANT_NAME, data, mode=0o644)
    return grant


def _last(workspace: Workspace) -> bytes | None:
    try:
        return (workspace.root / GRANT_NAME).read_bytes()
    except FileNotFoundError:
        return None


def _tools(workspace: Workspace) -> AcceptTools:
    settings = workspace.settings

    def public(uri: str | None) -> Any:
        return None if uri is None else workspace.private_key(uri).public_key()

    return AcceptTools(
        ledger=workspace.ledger,
        records=workspace.records,
        ca_key=lambda name: public(settings.cas[name].key if name in settings.cas else None),
        ca_key_scheme=lambda name: workspace.ca_key_uri(name).partition(":")[0],
        tls_key=lambda name: public(station_tls_uri(settings.stations[name]) if name in settings.stations else None),
        clock=workspace.clock,
        by=workspace.by,
    )


def _write_files(root: Path, grant: Grant, part: bytes) -> None:
    for directory in ("ca", "tls", "profiles", PARTS_NAME):
        (root / directory).mkdir(exist_ok=True, mode=0o755)
    for ca in grant.cas:
        write_durably(root / "ca" / f"{ca.name}.pem", certificate_pem(ca.certificate), mode=0o644)
    for station in grant.stations:
        pem = certificate_pem(station.certificate, *station.chain)
        write_durably(root / "tls" / f"{station.name}.pem", pem, mode=0o644)
    if grant.service_ca is not None:
        write_durably(root / _SERVICE_CA, certificate_pem(grant.service_ca), mode=0o644)
    for product in _by_profile(grant).values():
        write_durably(root / "profiles" / f"{product.profile_name}.toml", product.profile.encode(), mode=0o644)
    write_durably(root / PARTS_NAME / _PART_NAME, part, mode=0o644)


def _by_profile(grant: Grant) -> dict[str, GrantedProduct]:
    """Return one product for each profile; ``Misconfigured("site.grant.profile")`` if two mean different ones."""
    found: dict[str, GrantedProduct] = {}
    for product in grant.products:
        if found.setdefault(product.profile_name, product).profile != product.profile:
            raise Misconfigured(
                "site.grant.profile",
                f"two products bring different profiles named {product.profile_name}",
                hint="Let the authority give each profile a name of its own.",
                profile=product.profile_name,
            )
    return found


def _part_text(grant: Grant) -> bytes:
    _by_profile(grant)
    lines = [
        f"# Written by `birthmark site accept` from the grant of {grant.at}.",
        f'format = "{PART_FORMAT}"',
    ]
    if grant.url is not None:
        lines += ["", "[authority]", f"url = {toml_text(grant.url)}", f"service_ca = {toml_text(_SERVICE_CA)}"]
    for product in grant.products:
        table = f"products.{toml_key(product.name)}"
        lines += [
            "",
            f"[{table}]",
            f"profile = {toml_text(product.profile_name)}",
            f"ca = {toml_text(product.ca)}",
            f"key_algorithm = {toml_text(product.key_algorithm)}",
            "",
            f"[{table}.values]",
            *(f"{toml_key(name)} = {toml_text(value)}" for name, value in product.values.items()),
        ]
    return ("\n".join(lines) + "\n").encode()
