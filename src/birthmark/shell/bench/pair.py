"""An authority and a site side by side on one machine, introduced without people, for benches and tests."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from birthmark import __version__
from birthmark.model.events import CaCreated, GrantAccepted, OrderAssigned, SiteAdded, utc_text
from birthmark.model.siteevents import SiteMode
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.setup import SetupRequest, create_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.site import SiteRequest, sign_request

__all__ = ["assign_order", "introduce", "make_site"]


def make_site(root: Path, authority: Workspace, *, name: str, site_prefix: str) -> None:
    """Make a site's workspace with its keys; its passphrase is the authority's."""
    request = SetupRequest(
        name=name,
        origin=f"{authority.settings.origin}/site/{name}",
        maker="Example Devices",
        product="device",
        preset="tls-client",
        key_algorithm="p256",
        secret=authority.settings.vault.secret,
        site_prefix=site_prefix,
        values={"pen": "99999"},
    )
    create_workspace(root, request, secrets=SecretsResolver())


def introduce(authority: Workspace, root: Path, *, mode: SiteMode) -> None:
    """Put each on record at the other: site, authority and the CAs."""
    with open_workspace(root) as site:
        settings = site.settings
        log_key = site.private_key(settings.log.key)
        at = utc_text(authority.clock())
        request = SiteRequest(
            site=settings.name,
            origin=settings.origin,
            vkey=encode_vkey(settings.origin, public_octets(log_key)),
            site_prefix=settings.site_prefix,
            mode=mode,
            vault=site.vault_recipient.public,
            stations=(),
            ca=None,
            software=f"birthmark {__version__}",
            at=at,
        )
        added = SiteAdded(
            at=at,
            site=request.site,
            origin=request.origin,
            vkey=request.vkey,
            site_prefix=request.site_prefix,
            mode=mode,
            by=authority.by,
        )
        with authority.ledger.transaction() as tx:
            tx.append(added, sign_request(request, log_key))
        _accept(authority, site, mode, at)


def _accept(authority: Workspace, site: Workspace, mode: SiteMode, at: str) -> None:
    origin = authority.settings.origin
    key = authority.private_key(authority.settings.log.key)
    vkey = encode_vkey(origin, public_octets(key))
    with site.ledger.transaction() as tx:
        tx.append(
            GrantAccepted(
                at=at, authority=origin, vkey=vkey, mode=mode, grant_sha256=sha256(b"").hexdigest(), by=site.by
            )
        )
        for ca in authority.records.cas():
            event = CaCreated(
                at=at,
                ca=ca.ca,
                kind="root" if ca.issuer is None else "external",
                key_scheme="external",
                profile="",
                cert_sha256=sha256(ca.certificate).hexdigest(),
                transcript_sha256="",
                by=site.by,
                issuer=ca.issuer,
            )
            tx.append(event, ca.certificate)


def assign_order(authority: Workspace, order: str, site: str, mode: SiteMode) -> None:
    """Put on record that the order is made at the site."""
    with authority.ledger.transaction() as tx:
        tx.append(OrderAssigned(at=utc_text(authority.clock()), order=order, site=site, mode=mode, by=authority.by))
