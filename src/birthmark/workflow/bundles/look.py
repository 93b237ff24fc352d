"""Say what a bundle is, without its keys: to whoever holds the file."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from birthmark.errors import Tampered
from birthmark.wire.bundle import BUNDLE_MAGIC, CHUNK, HEADER, BundleHeader, decode_chunk, decode_header
from birthmark.wire.frames import read_frames
from birthmark.wire.manifest import open_manifest

__all__ = ["look_at_bundle"]


def look_at_bundle(read: Callable[[int], bytes], note: bytes | None, vkey: str | None) -> dict[str, object]:
    """Read a bundle to its end and return what it says, and whether a manifest was compared.

    Without manifest nothing of it is proven. ``Tampered``: ``frames.*``, ``bundle.malformed``, ``document.*``,
    ``bundle.manifest``.
    """
    header: BundleHeader | None = None
    chunks = devices = present = 0
    digest = sha256()
    for kind, data in read_frames(read, BUNDLE_MAGIC, digest=digest):
        if kind == HEADER and header is None:
            header = decode_header(data)
        elif kind == CHUNK and header is not None:
            chunk = decode_chunk(data, header)
            chunks += 1
            devices += chunk.count
            present += len(chunk.places)
    if header is None:
        raise Tampered(
            "bundle.malformed",
            "this bundle has no header",
            hint="Copy it again from where it was made; if it stays so, have it sealed again.",
            reason="no header",
        )
    if note is not None and vkey is not None:
        manifest = open_manifest(note, vkey)
        if manifest.bundle_sha256 != digest.hexdigest():
            raise Tampered(
                "bundle.manifest",
                "this file is not the bundle of the manifest",
                hint="Copy bundle and manifest again from where they were made.",
                bundle=manifest.bundle,
            )
    return {
        "bundle": header.bundle,
        "authority": header.authority,
        "site": header.site,
        "order": header.order,
        "mode": header.mode,
        "suite": header.suite,
        "chunks": chunks,
        "quantity": devices,
        "devices": present,
        "created_at": header.created_at,
        "manifest": "verified" if note is not None else "not compared",
    }
