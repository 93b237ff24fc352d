"""What an authority and a site tell each other before they work together (docs/formats/site.md).

The site makes its keys and asks (``SiteRequest``, signed by the key of its log); the authority records the site and
answers (``Grant``, signed by the key of the authority's log). No private key travels.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Tampered
from birthmark.model.siteevents import SiteMode
from birthmark.wire.document import (
    Base64,
    DocumentPart,
    Moment,
    Text,
    document_kind,
    document_text,
    open_document,
    sign_document,
)

__all__ = [
    "Grant",
    "GrantedCa",
    "GrantedProduct",
    "GrantedStation",
    "RequestedCa",
    "RequestedStation",
    "SiteRequest",
    "open_grant",
    "open_request",
    "sign_grant",
    "sign_request",
]

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")]
_Prefix = Annotated[str, msgspec.Meta(pattern=r"^(0[1-9a-f]|[1-7][0-9a-f])[0-9a-f]{2}\Z")]
_Pem = Annotated[str, msgspec.Meta(max_length=65536)]


class RequestedStation(DocumentPart, frozen=True, kw_only=True):
    """A station: the key of its receipts and a CSR (DER) for its TLS client certificate."""

    name: _Name
    vkey: Text
    csr: Base64


class RequestedCa(DocumentPart, frozen=True, kw_only=True):
    """The site's own issuing CA, to be delegated. ``key_scheme``: where its key is kept (``pkcs11``, ``file``)."""

    name: _Name
    csr: Base64
    key_scheme: Text


@document_kind
class SiteRequest(DocumentPart, frozen=True, kw_only=True):
    """A site asks to work for an authority. ``vault``: public half of its vault key; ``origin``, ``vkey``: its log."""

    format: Literal["birthmark-site-request/1"] = "birthmark-site-request/1"
    site: _Name
    origin: Text
    vkey: Text
    site_prefix: _Prefix
    mode: SiteMode
    vault: Base64
    stations: tuple[RequestedStation, ...]
    ca: RequestedCa | None
    software: Text
    at: Moment


class GrantedCa(DocumentPart, frozen=True, kw_only=True):
    """A CA the site needs to know (DER). ``issuer``: name of the CA above; ``delegated``: the site holds its key."""

    name: _Name
    kind: Literal["root", "issuing", "external"]
    certificate: Base64
    issuer: _Name | None
    delegated: bool


class GrantedStation(DocumentPart, frozen=True, kw_only=True):
    """The TLS client certificate of a station (DER) and those above it, its issuer first."""

    name: _Name
    certificate: Base64
    chain: tuple[Base64, ...]


class GrantedProduct(DocumentPart, frozen=True, kw_only=True):
    """A product that may be made at the site; ``profile`` is the profile file (TOML)."""

    name: _Name
    profile_name: _Name
    profile: _Pem
    ca: _Name
    key_algorithm: Text
    values: dict[str, str]


@document_kind
class Grant(DocumentPart, frozen=True, kw_only=True):
    """The terms of a site. ``authority``, ``vkey``: the authority's log; ``url``: its service, None when offline."""

    format: Literal["birthmark-grant/1"] = "birthmark-grant/1"
    authority: Text
    vkey: Text
    site: _Name
    site_prefix: _Prefix
    mode: SiteMode
    url: Text | None
    service_ca: Base64 | None
    """Root (DER) of the service's TLS certificate."""
    cas: tuple[GrantedCa, ...]
    stations: tuple[GrantedStation, ...]
    products: tuple[GrantedProduct, ...]
    software: Text
    at: Moment


class _Claim(msgspec.Struct, frozen=True):
    vkey: str


_claims = msgspec.json.Decoder(_Claim)


def sign_request(request: SiteRequest, log_key: Ed25519PrivateKey) -> bytes:
    """Return the request signed by the key of the site's log."""
    return sign_document(request, log_key, request.origin)


def open_request(data: bytes) -> SiteRequest:
    """Return a request; its signature proves that the sender holds the log key that it names.

    ``Tampered``: ``document.signature``, ``document.malformed``. Whether the sender is the site is for a person to
    establish: compare the SHA-256 of the file by another way.
    """
    return open_document(data, _claimed(data), SiteRequest)


def sign_grant(grant: Grant, log_key: Ed25519PrivateKey) -> bytes:
    """Return the grant signed by the key of the authority's log."""
    return sign_document(grant, log_key, grant.authority)


def open_grant(data: bytes, vkey: str | None) -> Grant:
    """Return a grant signed by the authority ``vkey``; None trusts the key that it names (first contact)."""
    return open_document(data, vkey or _claimed(data), Grant)


def _claimed(data: bytes) -> str:
    try:
        return _claims.decode(document_text(data)).vkey
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Tampered(
            "document.malformed",
            "this is no document of a site: it names no verifier key",
            hint="Give the file as it was made by `birthmark site init` or `birthmark site add`.",
            reason="no vkey",
        ) from None
