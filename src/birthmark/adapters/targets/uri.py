"""The URI that names a target: ``scheme:path?option=value&option=value``, percent-encoded (RFC 3986, section 2.1)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote

from birthmark.errors import Misconfigured
from birthmark.model.ids import parse_device_serial

__all__ = ["TargetUri", "bad_option", "choice", "decoded", "expand_target_uri", "parse_target_uri"]


@dataclass(frozen=True, slots=True)
class TargetUri:
    """``path`` is still percent-encoded: its meaning belongs to the scheme. ``options`` are decoded."""

    text: str
    path: str
    options: Mapping[str, str]


def expand_target_uri(uri: str, device_serial: str) -> str:
    """Return ``uri`` for one device: ``{device_serial}`` replaced.

    Refuses a malformed serial (``device.serial.malformed``), any other placeholder (``target.uri.placeholder``) and
    a path that climbs (``target.uri.traversal``), also when it is percent-encoded.
    """
    expanded = uri.replace("{device_serial}", parse_device_serial(device_serial))
    shown = expanded.partition("?")[0][:200]
    if re.search("[{}]", unquote(expanded)):
        raise Misconfigured(
            "target.uri.placeholder",
            f"the target {shown!r} holds a placeholder that is not known",
            hint="The only placeholder is {device_serial}.",
            target=ascii(shown),
        )
    if ".." in re.split(r"[/:;=]", unquote(expanded.partition("?")[0])):
        raise Misconfigured(
            "target.uri.traversal",
            f"the target {shown!r} climbs out of its directory",
            hint="Name the directory without '..'.",
            target=ascii(shown),
        )
    return expanded


def parse_target_uri(uri: str, *, scheme: str, options: Collection[str]) -> TargetUri:
    """Take a URI apart; ``Misconfigured`` if it has another scheme, an unknown or a doubled option, or no path."""
    named, colon, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    if named != scheme or not colon or not path:
        raise _malformed(uri, f"it does not have the form {scheme}:...")
    return TargetUri(uri, path, _options(uri, query, options))


def _options(uri: str, query: str, names: Collection[str]) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for item in query.split("&") if query else ():
        name, equals, value = item.partition("=")
        if not equals or not value or name not in names:
            raise _malformed(uri, f"{name[:40]!r} with a value is none of {', '.join(names)}")
        if name in pairs:
            raise _malformed(uri, f"{name!r} stands in it twice")
        pairs[name] = decoded(uri, value)
    return MappingProxyType(pairs)


def bad_option(uri: TargetUri, name: str, hint: str) -> Misconfigured:
    """Return the error for an option whose value cannot be used."""
    value = uri.options.get(name, "")
    return Misconfigured(
        "target.uri.option",
        f"the option {name}={value[:60]!r} of the target {uri.text[:200]!r} cannot be used",
        hint=hint,
        target=ascii(uri.text[:200]),
        option=name,
    )


def choice(uri: TargetUri, option: str, allowed: tuple[str, ...]) -> str:
    """Return the value of an option, the first of ``allowed`` if it is not given."""
    value = uri.options.get(option, allowed[0])
    if value not in allowed:
        raise bad_option(uri, option, f"Use one of {', '.join(allowed)}.")
    return value


def decoded(uri: str, text: str) -> str:
    """Return percent-encoded text as it is meant."""
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        plain = "\0"
    if "\0" in plain:
        raise _malformed(uri, "it holds octets that are not text")
    return plain


def _malformed(uri: str, reason: str) -> Misconfigured:
    return Misconfigured(
        "target.uri.malformed",
        f"the target {uri[:200]!r} cannot be read: {reason}",
        hint="See docs/targets.md for the form of a target.",
        target=ascii(uri[:200]),
    )
