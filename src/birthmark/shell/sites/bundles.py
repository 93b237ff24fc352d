"""Bundles of a workspace: which keys and which files sealing and opening work with."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.bundlefile import BundleInput, BundleOutput
from birthmark.adapters.durable import naming_os_errors, write_durably
from birthmark.errors import Misconfigured
from birthmark.model.ids import parse_order_id, parse_site_id
from birthmark.wire.document import document_text
from birthmark.wire.hpke import OpeningKeys, P256Key, P256Recipient, SealingKeys, suite_named
from birthmark.wire.manifest import Manifest, open_manifest, sign_manifest
from birthmark.wire.site import open_request
from birthmark.wire.vault import VaultRecipient
from birthmark.workflow.bundles.consign import Packing
from birthmark.workflow.bundles.pack import seal_bundle
from birthmark.workflow.bundles.unpack import Opened, Unpacking, open_bundle

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = [
    "MANIFEST_LIMIT",
    "bundle_path",
    "bundle_recipient_file",
    "manifest_path",
    "new_bundle_path",
    "open_for_site",
    "opening_facts",
    "read_small",
    "seal_for_site",
    "told_quantity",
]

MANIFEST_LIMIT = 1 << 16


def bundle_path(workspace: Workspace, order: str) -> Path:
    """Return where the bundle of an order lies unless somebody says otherwise; there the service finds it."""
    return workspace.root / "bundles" / f"{order}.bundle"


def new_bundle_path(workspace: Workspace, order: str) -> Path:
    """Return ``bundle_path`` with its directory made; ``Refused("order.name.malformed")``."""
    path = bundle_path(workspace, parse_order_id(order))
    with naming_os_errors(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    return path


def manifest_path(bundle: Path) -> Path:
    """Return where the manifest of a bundle lies unless somebody says otherwise."""
    return bundle.with_name(f"{bundle.name}.manifest")


def seal_for_site(
    workspace: Workspace,
    *,
    order: str,
    site: str,
    suite: str,
    recipient: Path | None,
    output: Path,
    progress: Callable[[int], None],
) -> Manifest:
    """Write bundle and manifest of an order; what the file has already is kept.

    Power cut: the bundle may be unfinished or without its manifest; the same command finishes both.
    """
    parse_order_id(order)  # it names a lock below
    parse_site_id(site)
    chosen = suite_named(suite)
    packing = Packing(
        ledger=workspace.ledger,
        records=workspace.records,
        authority=workspace.settings.origin,
        vault_key=lambda: workspace.vault_key,
        clock=workspace.clock,
        entropy=workspace.entropy,
        by=workspace.by,
    )
    keys = _recipient(workspace, site, recipient)
    with workspace.lock(f"seal-{order}"), BundleOutput(output) as file:
        manifest = seal_bundle(
            packing, order=order, site=site, suite=chosen.name, recipient=keys, file=file, progress=progress
        )
    note = sign_manifest(manifest, workspace.private_key(workspace.settings.log.key))
    write_durably(manifest_path(output), note, mode=0o644)
    return manifest


def _recipient(workspace: Workspace, site: str, file: Path | None) -> SealingKeys:
    """Return the keys of a site: those of its recorded request, or a P-256 key that it sent by itself."""
    if file is not None:
        return _p256_recipient(file)
    record = workspace.records.site(site)
    if record is None:
        raise Misconfigured(
            "site.unknown",
            f"there is no site {site[:60]}",
            hint="`birthmark site list` shows all; `birthmark site add` adds one.",
            site=site[:60],
        )
    ((_, entry),) = workspace.ledger.entries(record.seq, 1)
    return VaultRecipient(open_request(entry.partition(b"\n")[2]).vault)


def _p256_recipient(file: Path) -> P256Recipient:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_small(file))
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise Misconfigured(
            "bundle.recipient.malformed",
            f"{file} is not a P-256 public key",
            hint="Give the PEM file that `birthmark bundle recipient` wrote at the site.",
            path=str(file),
        )
    return P256Recipient(key)


def bundle_recipient_file(workspace: Workspace, uri: str, output: Path) -> bytes:
    """At a site: make the P-256 key ``uri`` unless it is there, write its public half (PEM), and return that."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    keys = workspace.keys(uri)
    try:
        key = keys.open(uri)
    except Misconfigured as problem:
        if problem.code != "key.file.missing":
            raise
        key = keys.generate(uri, "p256")
    public = P256Key(key).private.public_key()  # type: ignore[arg-type]
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_durably(output, pem, mode=0o644)
    return pem


def open_for_site(
    workspace: Workspace, *, bundle: Path, manifest: Path, key: str | None, progress: Callable[[int], None]
) -> Opened:
    """Take in a bundle at the site of this workspace."""

    def keys() -> OpeningKeys:
        return workspace.vault_key if key is None else P256Key(workspace.private_key(key))

    unpacking = Unpacking(
        ledger=workspace.ledger,
        records=workspace.records,
        site_prefix=workspace.ledger.site_prefix.hex(),
        keys=keys,
        recipient=lambda: workspace.vault_recipient,
        clock=workspace.clock,
        entropy=workspace.entropy,
        by=workspace.by,
    )
    with workspace.lock("bundle-open"), BundleInput(bundle) as file:
        return open_bundle(unpacking, read_small(manifest), file, progress=progress)


def opening_facts(workspace: Workspace, manifest: Path) -> dict[str, str]:
    """Return what a plan to open a bundle states; the manifest must be signed by this site's authority.

    A site that knows no authority yet is refused when it opens (``bundle.foreign``); its facts are empty.
    """
    note = read_small(manifest)
    authority = workspace.records.authority()
    if authority is None:
        return {"bundle": "-", "manifest_sha256": sha256(note).hexdigest(), "order": "-"}
    told = open_manifest(note, authority.vkey)
    return {"bundle": told.bundle, "manifest_sha256": sha256(note).hexdigest(), "order": told.order}


def told_quantity(manifest: Path) -> int:
    """Return how many devices a manifest tells of, unverified: for a progress bar."""
    import json

    try:
        told = json.loads(document_text(read_small(manifest)))["quantity"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return told if isinstance(told, int) else 0


def read_small(path: Path) -> bytes:
    """Return the content of a small file; ``Misconfigured`` ``bundle.file.missing`` or ``bundle.file.size``."""
    with BundleInput(path) as file, naming_os_errors(path):
        data = file.read(MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        raise Misconfigured(
            "bundle.file.size",
            f"{path} has more than {MANIFEST_LIMIT} octets",
            hint="Name the manifest with --manifest; the bundle itself is the large file.",
            path=str(path),
        )
    return data
