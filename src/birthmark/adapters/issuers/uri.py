"""The URI that names a signing service: ``scheme:ADDRESS?option=value``; secrets stand in it by reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from birthmark.errors import Misconfigured

__all__ = ["IssuerUri", "parse_issuer_uri", "require_web_address"]


@dataclass(frozen=True, slots=True)
class IssuerUri:
    """``address`` is what stands between scheme and options; ``options`` are decoded."""

    scheme: str
    address: str
    options: Mapping[str, str]

    @property
    def name(self) -> str:
        """Who signs, as it goes on record: without options, hence without references to secrets."""
        return f"{self.scheme}:{self.address}"


def parse_issuer_uri(uri: str, *, scheme: str, options: Collection[str], needed: Collection[str] = ()) -> IssuerUri:
    """Take a URI apart; ``Misconfigured("issuer.uri")`` if it is of another scheme or has wrong options."""
    named, _, rest = uri.partition(":")
    address, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    wrong = sorted(set(found) - set(options))
    missing = sorted(set(needed) - set(found))
    if named != scheme or not address or wrong or missing or len(found) != len(pairs) or "" in found.values():
        raise Misconfigured(
            "issuer.uri",
            f"this is not the URI of a service that is asked by {scheme}",
            hint=f"Write {scheme}:ADDRESS?option=value; options: {', '.join(options)}.",
            unknown=wrong,
            missing=missing,
        )
    return IssuerUri(scheme, address, found)


def require_web_address(uri: IssuerUri, schemes: Collection[str]) -> str:
    """Return the address; ``Misconfigured("issuer.uri")`` if it is no plain URL of one of ``schemes``."""
    try:
        parts = urlsplit(uri.address)
        good = parts.scheme in schemes and bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise Misconfigured(
            "issuer.uri",
            f"the address of the service is no URL of {' or '.join(schemes)}",
            hint="Write it without user, password, query and fragment.",
            scheme=uri.scheme,
        )
    return uri.address
