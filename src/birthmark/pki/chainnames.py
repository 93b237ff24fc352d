"""Compares names as RFC 5280 section 7 wants it, and applies name constraints (section 4.2.1.10)."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

__all__ = ["Subtrees", "comparable_name", "first_forbidden_name"]

_Named = x509.Certificate | x509.CertificateSigningRequest
ComparableName = tuple[frozenset[tuple[str, str | bytes]], ...]


def comparable_name(name: x509.Name) -> ComparableName:
    """Return a name in a form in which equal means "matches" (RFC 5280, 7.1: case and spaces fold)."""
    return tuple(frozenset((attr.oid.dotted_string, _fold(attr.value)) for attr in rdn) for rdn in name.rdns)


def _fold(value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return value
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


@dataclass(frozen=True, slots=True)
class Subtrees:
    """The name constraints of one CA certificate."""

    permitted: tuple[x509.GeneralName, ...]
    excluded: tuple[x509.GeneralName, ...]

    @classmethod
    def of(cls, extension: x509.NameConstraints) -> Subtrees:
        """Return the constraints of an extension."""
        return cls(tuple(extension.permitted_subtrees or ()), tuple(extension.excluded_subtrees or ()))


def _dir_name_in(name: x509.Name, base: x509.Name) -> bool:
    prefix = comparable_name(base)
    return comparable_name(name)[: len(prefix)] == prefix


def _host_in(host: str, base: str) -> bool:
    """A constraint with a leading dot wants a subdomain, any other the host itself (URI, rfc822)."""
    host, base = host.lower().rstrip("."), base.lower()
    return host.endswith(base) and len(host) > len(base) if base.startswith(".") else host == base


def _dns_in(name: str, base: str) -> bool:
    name, base = name.lower().rstrip("."), base.lower().removeprefix(".")
    return base == "" or name == base or name.endswith("." + base)


def _mail_in(name: str, base: str) -> bool:
    local, _, host = name.rpartition("@")
    if "@" in base:
        base_local, _, base_host = base.rpartition("@")
        return local == base_local and host.lower() == base_host.lower()
    return _host_in(host, base)


def _uri_in(name: str, base: str) -> bool:
    """Only the host counts; a URI without a host name cannot be in any subtree (RFC 5280, 4.2.1.10)."""
    authority = name.partition("://")[2].split("/")[0].split("?")[0].split("#")[0]
    host = authority.rpartition("@")[2].partition(":")[0]
    return bool(host) and _host_in(host, base)


def _ip_in(name: object, base: object) -> bool:
    return (
        isinstance(name, ipaddress.IPv4Address | ipaddress.IPv6Address)
        and isinstance(base, ipaddress.IPv4Network | ipaddress.IPv6Network)
        and name in base
    )


_MATCH: dict[type[x509.GeneralName], Callable[[Any, Any], bool]] = {
    x509.DirectoryName: _dir_name_in,
    x509.DNSName: _dns_in,
    x509.RFC822Name: _mail_in,
    x509.UniformResourceIdentifier: _uri_in,
    x509.IPAddress: _ip_in,
}


def first_forbidden_name(cert: _Named, constraints: Sequence[Subtrees]) -> str | None:
    """Return why the names of a certificate (or request) break the constraints above it, or None if they do not.

    A name of a type that is constrained but that this table cannot compare (otherName, x400Address,
    ediPartyName, registeredID) counts as forbidden.
    """
    for name in _names_of(cert):
        match = _MATCH.get(type(name))
        for subtrees in constraints:
            permitted = [base for base in subtrees.permitted if type(base) is type(name)]
            excluded = [base for base in subtrees.excluded if type(base) is type(name)]
            if match is None and (permitted or excluded):
                return f"{type(name).__name__} is constrained in a way that cannot be checked"
            if match is None:
                continue
            if any(match(name.value, base.value) for base in excluded):
                return f"{_show(name)} is in an excluded subtree"
            if permitted and not any(match(name.value, base.value) for base in permitted):
                return f"{_show(name)} is outside the permitted subtrees"
    return None


def _show(name: x509.GeneralName) -> str:
    value = name.value
    return value.rfc4514_string() if isinstance(value, x509.Name) else str(value)


def _names_of(cert: _Named) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    if cert.subject.rdns:
        names.append(x509.DirectoryName(cert.subject))
    try:
        names += cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        # RFC 5280, 4.2.1.10: without a SAN the e-mail constraint reaches into the subject.
        mails = cert.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
        names += [x509.RFC822Name(str(attribute.value)) for attribute in mails]
    return names
