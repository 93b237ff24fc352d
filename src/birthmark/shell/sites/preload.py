"""Identities that a vendor preloads: wires its files, the settings of the vendor and the intake together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.received import read_received
from birthmark.adapters.vendorfiles import FileSpool, VendorFile
from birthmark.errors import Misconfigured
from birthmark.pki.certfile import read_certificates
from birthmark.pki.csr import parse_csr
from birthmark.shell.authority.access import access_tools, require_role
from birthmark.shell.sites.admin import ca_profile, only_issuer
from birthmark.wire.microchip import ManifestSigner, manifest_signers
from birthmark.workflow.authority.delegate import Delegation
from birthmark.workflow.preload.intake import Manifest, PreloadIntake, TakenIn
from birthmark.workflow.preload.vendordelegate import delegate_to_vendor
from birthmark.workflow.preload.vendorpaths import vendor_prefix

if TYPE_CHECKING:
    from birthmark.shell.workspace.config import VendorSettings
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["delegate_vendor_ca", "ingest_manifest", "manifest_name", "vendor_ca"]


def _settings(workspace: Workspace, vendor: str) -> VendorSettings:
    found = workspace.settings.vendors.get(vendor)
    if found is None:
        raise Misconfigured(
            "settings.vendor",
            f"this workspace knows no vendor named {vendor}",
            hint=f"Add [vendors.{vendor}] to birthmark.toml; "
            f"there are: {', '.join(workspace.settings.vendors) or 'none'}.",
            vendor=vendor,
        )
    return found


def _certificates(workspace: Workspace, file: str | None) -> list[bytes]:
    return [] if file is None else read_certificates(read_received(workspace.root / file))


def _signers(workspace: Workspace, vendor: str) -> Mapping[str, ManifestSigner]:
    return manifest_signers(_certificates(workspace, _settings(workspace, vendor).signers))


def manifest_name(workspace: Workspace, vendor: str, path: Path) -> str:
    """Return the SHA-256 (hex) that names a vendor's file or directory, without taking it in."""
    require_role(workspace, "authority")
    with VendorFile(path, scratch=workspace.root / "ledger", signers=_signers(workspace, vendor)) as file:
        return file.named()


def ingest_manifest(
    workspace: Workspace, vendor: str, path: Path, *, accept_short: bool = False, approved: str | None = None
) -> TakenIn:
    """Take in a vendor's file or directory; raises what ``PreloadIntake.run`` and the readers raise."""
    require_role(workspace, "authority")
    settings, scratch = _settings(workspace, vendor), workspace.root / "ledger"
    signers = _signers(workspace, vendor)
    intake = PreloadIntake(
        ledger=workspace.ledger,
        records=workspace.records,
        vendor=vendor,
        roots=tuple(_certificates(workspace, settings.roots)),
        clock=workspace.clock,
        by=workspace.by,
    )
    with (
        workspace.lock("preload"),
        VendorFile(path, scratch=scratch, signers=signers, accept_short=accept_short) as file,
        FileSpool(scratch) as spool,
    ):
        manifest = Manifest(file.form, file.items(), file.sha256)
        return intake.run(manifest, file.authorities(), spool, approved=approved)


def vendor_ca(vendor: str, name: str) -> str:
    """Return the name on record of a CA that is delegated to a vendor; ``Refused("site.name.malformed")``."""
    from birthmark.model.ids import parse_site_id

    return f"{vendor_prefix(vendor)}{parse_site_id(name)}"


def delegate_vendor_ca(
    workspace: Workspace,
    vendor: str,
    name: str,
    csr: bytes,
    *,
    product: str,
    quota: int,
    days: int,
    issuer: str | None,
    profile: str = "site-ca",
) -> bytes:
    """Sign a vendor's CA for one product and put it on record; return its certificate (DER)."""
    require_role(workspace, "authority")
    _settings(workspace, vendor)
    settings = workspace.product(product)
    with workspace.lock("access"):
        wish = Delegation(
            ca=vendor_ca(vendor, name),
            site=vendor,
            csr=parse_csr(csr),
            key_scheme="vendor",
            issuer=issuer or only_issuer(workspace),
            open_issuer=workspace.issuer,
            profile=ca_profile(workspace, profile),
            values={**settings.values, "ca_name": f"{settings.values.get('maker', '')} {vendor} {name}".strip()},
            products=[(workspace.profile(settings.profile), settings.values)],
            days=days,
        )
        return delegate_to_vendor(access_tools(workspace), wish, vendor=vendor, quota=quota)
