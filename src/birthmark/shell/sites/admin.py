"""At the authority: what the site commands do around the workflow, and the grants they write.

``sites/SITE/grant.note`` is the last grant; the next one keeps its products and its URL unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from birthmark.adapters.durable import write_durably
from birthmark.errors import Misconfigured, Refused
from birthmark.pki.csr import Csr, parse_csr
from birthmark.pki.profile import Profile, load_preset, preset_names
from birthmark.shell.authority.access import access_tools, certificate_pem, require_role
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.site import Grant, GrantedProduct, open_grant, open_request, sign_grant
from birthmark.workflow.authority.delegate import DEFAULT_SIGNING_DAYS, Delegation, delegate
from birthmark.workflow.sites.site import (
    GrantTerms,
    add_site,
    add_station,
    check_request,
    is_site_recorded,
    make_grant,
    working_site,
)

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = [
    "CaWishes",
    "GrantWishes",
    "WrittenGrant",
    "ca_profile",
    "delegate_to_site",
    "delegation_facts",
    "grant_station",
    "only_issuer",
    "take_in_site",
    "write_grant",
]

_MAX_GRANT = 60_000
"""Octets; a site puts the grant into one entry of its log (65,535)."""


@dataclass(frozen=True, slots=True)
class GrantWishes:
    """What a grant shall say. None: as the last one, for a first grant all products and no URL."""

    products: Sequence[str] | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class CaWishes:
    """How a CA is delegated. ``issuer`` None: the only CA here that has room for one below it.

    ``title``: its common name; None: made of maker and name. ``days``: how long it may sign.
    """

    issuer: str | None = None
    days: int = DEFAULT_SIGNING_DAYS
    profile: str = "site-ca"
    title: str | None = None
    constrained: bool = True


@dataclass(frozen=True, slots=True)
class WrittenGrant:
    """A grant that is on its way: the file, and how it reads."""

    path: Path
    data: bytes
    grant: Grant


def delegation_facts(request: bytes) -> dict[str, str] | None:
    """Return what a plan states about the CA that a site's request asks for; None if it asks for none."""
    asked = open_request(request)
    if asked.ca is None:
        return None
    return {"ca": asked.ca.name, "request_sha256": sha256(request).hexdigest(), "site": asked.site}


def take_in_site(workspace: Workspace, data: bytes, wishes: GrantWishes, ca: CaWishes) -> WrittenGrant:
    """Record the site that asks and everything it gets, then write its grant. The same request again is safe.

    Power cut: before the record nothing happened; after it the same command writes the same certificates.
    """
    require_role(workspace, "authority")
    request = open_request(data)
    checked = check_request(request, data)
    with workspace.lock("access"):
        tools = access_tools(workspace)
        if not is_site_recorded(tools, checked):
            _require_terms(workspace, request.mode, wishes)
            wish = None
            if request.ca is not None and checked.ca is not None:
                wish = _delegation(
                    workspace, request.site, request.ca.name, checked.ca, request.ca.key_scheme, wishes.products, ca
                )
            add_site(tools, checked, wish)
        return write_grant(workspace, request.site, wishes)


def grant_station(workspace: Workspace, site: str, name: str, *, vkey: str, csr: bytes, days: int) -> WrittenGrant:
    """Add a station to a site (or renew its certificate) and write the site's next grant."""
    require_role(workspace, "authority")
    with workspace.lock("access"):
        add_station(access_tools(workspace), site=site, name=name, vkey=vkey, csr=csr, days=days)
        return write_grant(workspace, site, GrantWishes())


def delegate_to_site(
    workspace: Workspace, site: str, name: str, csr: bytes, key_scheme: str, wishes: GrantWishes, ca: CaWishes
) -> WrittenGrant:
    """Sign the site's next issuing CA and write the site's next grant. ``Refused("site.mode")``: it signs nothing."""
    require_role(workspace, "authority")
    with workspace.lock("access"):
        tools = access_tools(workspace)
        record = working_site(tools.records, site)
        if record.mode != "factory_ca":
            raise Refused(
                "site.mode",
                f"site {site} gets no CA: its mode is {record.mode}",
                hint="Only a site of mode factory_ca signs for itself.",
                site=site,
                mode=record.mode,
            )
        products = _kept(workspace, site, wishes).products
        delegate(tools, _delegation(workspace, site, name, parse_csr(csr), key_scheme, products, ca))
        return write_grant(workspace, site, wishes)


def write_grant(workspace: Workspace, site: str, wishes: GrantWishes) -> WrittenGrant:
    """Sign the terms that the record gives the site now and write them to ``sites/SITE/grant.note``.

    ``Refused``: ``site.stopped``, ``site.grant.size`` (it does not fit into an entry of the site's log).
    """
    require_role(workspace, "authority")
    tools = access_tools(workspace)
    record = working_site(tools.records, site)
    kept = _kept(workspace, site, wishes)
    log_key = workspace.private_key(workspace.settings.log.key)
    origin = workspace.settings.origin
    terms = GrantTerms(
        origin=origin,
        vkey=encode_vkey(origin, public_octets(log_key)),
        products=_products(workspace, kept.products),
        url=kept.url,
    )
    grant = make_grant(tools, record, terms)
    data = sign_grant(grant, log_key)
    if len(data) > _MAX_GRANT:
        raise Refused(
            "site.grant.size",
            f"the grant of site {site} would have {len(data)} octets, and {_MAX_GRANT} fit into the site's log",
            hint="Name fewer products with --product, or split the stations over two sites.",
            site=site,
            octets=len(data),
        )
    place = workspace.root / "sites" / site
    place.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_durably(place / "grant.note", data, mode=0o644)
    for ca in grant.cas:
        if ca.delegated:
            write_durably(workspace.root / "ca" / f"{ca.name}.pem", certificate_pem(ca.certificate), mode=0o644)
    return WrittenGrant(place / "grant.note", data, grant)


def _kept(workspace: Workspace, site: str, wishes: GrantWishes) -> GrantWishes:
    """Return the wishes, filled up with what the last grant said."""
    try:
        data = (workspace.root / "sites" / site / "grant.note").read_bytes()
    except FileNotFoundError:
        return wishes
    log_key = workspace.private_key(workspace.settings.log.key)
    last = open_grant(data, encode_vkey(workspace.settings.origin, public_octets(log_key)))
    still = [product.name for product in last.products if product.name in workspace.settings.products]
    return GrantWishes(
        products=still if wishes.products is None else wishes.products,
        url=last.url if wishes.url is None else wishes.url,
    )


def _require_terms(workspace: Workspace, mode: str, wishes: GrantWishes) -> None:
    """Refuse before anything is recorded what would make the grant impossible."""
    _products(workspace, wishes.products)
    if (mode == "online" and wishes.url is None) or (wishes.url is not None and not wishes.url.startswith("https://")):
        raise Misconfigured(
            "site.url",
            "the site must know where the authority's service is, by an https:// address",
            hint="Add --url https://HOST:PORT.",
            mode=mode,
        )


def _products(workspace: Workspace, names: Sequence[str] | None) -> list[GrantedProduct]:
    found = []
    for name in workspace.settings.products if names is None else names:
        settings = workspace.product(name)
        workspace.ca_certificate(settings.ca)
        profile = workspace.profile(settings.profile)
        found.append(
            GrantedProduct(
                name=name,
                profile_name=profile.name,
                profile=(workspace.root / "profiles" / f"{settings.profile}.toml").read_text(),
                ca=settings.ca,
                key_algorithm=settings.key_algorithm,
                values=settings.values,
            )
        )
    return found


def _delegation(
    workspace: Workspace,
    site: str,
    name: str,
    csr: Csr,
    key_scheme: str,
    products: Sequence[str] | None,
    wishes: CaWishes,
) -> Delegation:
    settings = [workspace.product(name) for name in products or workspace.settings.products]
    values = {key: value for product in settings for key, value in product.values.items()}
    title = wishes.title or f"{values.get('maker', '')} {name}".strip()
    return Delegation(
        ca=name,
        site=site,
        csr=csr,
        key_scheme=key_scheme,
        issuer=wishes.issuer or only_issuer(workspace),
        open_issuer=workspace.issuer,
        profile=ca_profile(workspace, wishes.profile),
        values={**values, "ca_name": title},
        products=[(workspace.profile(product.profile), product.values) for product in settings],
        days=wishes.days,
        constrained=wishes.constrained,
    )


def ca_profile(workspace: Workspace, name: str) -> Profile:
    """Return the workspace's own profile of that name, else the preset."""
    own = workspace.root / "profiles" / f"{name}.toml"
    return load_preset(name) if name in preset_names() and not own.exists() else workspace.profile(name)


def only_issuer(workspace: Workspace) -> str:
    """Return the CA of this workspace that may have CAs below it; ``Misconfigured("site.issuer")`` unless it is one."""
    able = []
    for name in workspace.settings.cas:
        record = workspace.records.ca(name)
        if record is not None and record.kind != "access" and _has_room(record.certificate):
            able.append(name)
    if len(able) != 1:
        raise Misconfigured(
            "site.issuer",
            f"which CA shall sign the site's CA? {', '.join(able) or 'None here'} may have a CA below it",
            hint="Name it with --issuer; a CA with path length 0 has no room for one below it.",
            cas=able,
        )
    return able[0]


def _has_room(certificate: bytes) -> bool:
    constraints = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.BasicConstraints)
    return constraints.value.path_length is None or constraints.value.path_length > 0
