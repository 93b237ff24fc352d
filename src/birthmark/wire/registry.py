"""What other registries are told: one line a change, a cursor that knows its log, a signed manifest.

The forms are fixed in docs/formats/export.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Misconfigured
from birthmark.wire.document import (
    Digest,
    DocumentPart,
    Moment,
    Text,
    document_kind,
    open_document,
    sign_document,
)

__all__ = [
    "ChangeKind",
    "ChangeLine",
    "ExportManifest",
    "ExportedFile",
    "LogCursor",
    "change_text",
    "open_export_manifest",
    "parse_cursor",
    "sign_export_manifest",
]

ChangeKind = Literal["verified", "revoked", "superseded", "scrapped"]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53))]

_CURSOR = re.compile(r"birthmark-cursor/1:(0|[1-9][0-9]{0,17}):([0-9a-f]{64})", re.ASCII)
_encoder = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class LogCursor:
    """A place in one log: everything before entry ``size`` is known, and ``root`` (RFC 6962, hex) says which log."""

    size: int
    root: str

    def text(self) -> str:
        """Return the form that other programs store."""
        return f"birthmark-cursor/1:{self.size}:{self.root}"


def parse_cursor(text: str) -> LogCursor:
    """Return the cursor that ``text`` is; ``Misconfigured("cursor.malformed")`` if it is none."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise Misconfigured(
            "cursor.malformed",
            f"{text[:120]!a} is not a cursor",
            hint="Give the cursor of the last export as it stands in its manifest; leave it out to begin at the start.",
        )
    return LogCursor(int(match[1]), match[2])


class ChangeLine(DocumentPart, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a registry has to know of one device. ``entry``: the number in the log that says so.

    ``verified`` has ``cert_serial``, ``cert_sha256`` and ``certificate`` (PEM); ``revoked`` has ``cert_serial``;
    ``superseded`` has it if the identity had a certificate. ``site``: which site reported it.
    """

    change: ChangeKind
    entry: Count
    at: Moment
    device_serial: Text
    order: str | None = None
    cert_serial: str | None = None
    cert_sha256: str | None = None
    certificate: str | None = None
    reason: str | None = None
    site: str | None = None


def change_text(line: ChangeLine) -> bytes:
    """Return the line as canonical JSON with its line feed."""
    return _encoder.encode(line) + b"\n"


class ExportedFile(DocumentPart, frozen=True, kw_only=True):
    """One file of an export."""

    name: Text
    octets: Count
    sha256: Digest


@document_kind
class ExportManifest(DocumentPart, frozen=True, kw_only=True):
    """What an export holds: the changes that entries ``first`` to ``size - 1`` of the log ``origin`` made.

    ``since`` is the cursor it began at (None: the start of the log), ``next`` the one to give the next time.
    """

    format: Literal["birthmark-export/1"] = "birthmark-export/1"
    origin: Text
    since: str | None
    next: Text
    first: Count
    size: Count
    changes: Count
    verified: Count
    files: tuple[ExportedFile, ...]
    created_at: Moment


def sign_export_manifest(manifest: ExportManifest, log_key: Ed25519PrivateKey) -> bytes:
    """Return the manifest signed by the key of the log."""
    return sign_document(manifest, log_key, manifest.origin)


def open_export_manifest(data: bytes, vkey: str) -> ExportManifest:
    """Return a manifest that the log key ``vkey`` signed; ``Tampered``: ``document.signature``, ``.malformed``."""
    return open_document(data, vkey, ExportManifest)
