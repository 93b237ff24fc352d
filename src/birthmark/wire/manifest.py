"""The signed, public half of what goes to a site (docs/formats/bundle.md): which bundle, for which order, how many."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.model.siteevents import SiteMode
from birthmark.wire.document import (
    Digest,
    DocumentPart,
    Moment,
    Text,
    document_kind,
    open_document,
    sign_document,
)

__all__ = ["BundleId", "Count", "Manifest", "Name", "open_manifest", "sign_manifest"]

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")]
BundleId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


@document_kind
class Manifest(DocumentPart, frozen=True, kw_only=True):
    """What a bundle is. ``devices``: identities in it (pool), or that may be made of it (other modes)."""

    format: Literal["birthmark-manifest/1"] = "birthmark-manifest/1"
    bundle: BundleId
    authority: Text
    site: Name
    order: Name
    mode: SiteMode
    product: Text
    profile: Text
    key_algorithm: Text
    key_origin: Literal["injected", "device"]
    ca: Name
    quantity: Count
    chunks: Count
    devices: Count
    bundle_sha256: Digest
    """Of the file, up to its last frame."""
    created_at: Moment


def sign_manifest(manifest: Manifest, log_key: Ed25519PrivateKey) -> bytes:
    """Return the manifest signed by the key of the authority's log."""
    return sign_document(manifest, log_key, manifest.authority)


def open_manifest(data: bytes, vkey: str) -> Manifest:
    """Return a manifest that the authority ``vkey`` signed; ``Tampered``: ``document.signature``, ``.malformed``."""
    return open_document(data, vkey, Manifest)
