"""Signed documents: a C2SP signed note over one line of canonical JSON (keys ascending, no white space, UTF-8)."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Tampered
from birthmark.tlog.note import open_note, parse_vkey, sign_note

__all__ = [
    "Base64",
    "Digest",
    "DocumentPart",
    "Moment",
    "Text",
    "document_kind",
    "document_text",
    "open_document",
    "sign_document",
]

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Moment = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Base64 = Annotated[bytes, msgspec.Meta(max_length=1 << 20)]
"""Raw octets; standard base64 in the JSON."""

_MAX_OCTETS = 16 << 20


class DocumentPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every document and of its parts."""


_D = TypeVar("_D", bound=DocumentPart)
_encoder = msgspec.json.Encoder(order="sorted")


_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def document_kind(kind: type[_D]) -> type[_D]:
    """Class decorator of every document: learn at import how it is read.

    msgspec does not bear two threads that are both the first to read a type: the process ends.
    """
    _decoders[kind] = msgspec.json.Decoder(kind)
    return kind


def sign_document(document: DocumentPart, key: Ed25519PrivateKey, name: str) -> bytes:
    """Return the document as a note signed by the key ``name``."""
    return sign_note(_encoder.encode(document).decode() + "\n", name, key).encode()


def document_text(data: bytes) -> bytes:
    """Return the JSON line of a note, unverified: only to learn which key to open it with."""
    return data[:_MAX_OCTETS].partition(b"\n")[0]


def open_document(data: bytes, vkey: str, kind: type[_D]) -> _D:
    """Return the document that the holder of ``vkey`` signed.

    Raises ``Tampered``: ``document.signature`` (not signed by that key), ``document.malformed`` (not a ``kind`` in
    canonical form).
    """
    if len(data) > _MAX_OCTETS:
        raise _malformed(kind, f"it has more than {_MAX_OCTETS} octets")
    try:
        text, _ = open_note(data, [parse_vkey(vkey)])
    except Tampered as problem:
        raise Tampered(
            "document.signature",
            f"this {kind.__name__} is not signed by {vkey.partition('+')[0]}: {problem.message}",
            hint="Get the file again from who made it; compare its SHA-256 by telephone.",
            cause=problem.code,
        ) from None
    try:
        document: _D = _decoders[kind].decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise _malformed(kind, str(problem)) from None
    if _encoder.encode(document).decode() + "\n" != text:
        raise _malformed(kind, "it is not in canonical form")
    return document


def _malformed(kind: type[DocumentPart], reason: str) -> Tampered:
    return Tampered(
        "document.malformed",
        f"this is no {kind.__name__}: {reason}",
        hint="Get the file again from who made it, with a program of the same version.",
        reason=reason[:200],
    )
