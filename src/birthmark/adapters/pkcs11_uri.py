"""The URI that names an object in a token: the part of RFC 7512 that we use.

``pkcs11:token=LABEL;object=NAME;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:CA_PIN``
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from birthmark.errors import Misconfigured

__all__ = ["Pkcs11Uri", "parse_pkcs11_uri"]

_PATH = ("token", "object", "id", "type")
_QUERY = ("module-path", "pin-source")
_TOKEN_LABEL = 32
_HALF_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """``pin_source`` is a secret reference. ``label`` and ``key_id`` (CKA_LABEL, CKA_ID): at least one is there."""

    module: Path
    token: str
    label: str | None
    key_id: bytes | None
    pin_source: str


def parse_pkcs11_uri(uri: str, *, base: Path) -> Pkcs11Uri:
    """Take a URI apart; a relative module-path starts at ``base``.

    ``Misconfigured``: ``key.uri``, or ``secret.reference`` if it holds the PIN itself. Neither shows the URI's values.
    """
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    if scheme != "pkcs11":
        raise _malformed("it does not start with pkcs11:")
    if not uri.isprintable():
        raise _malformed("it holds characters that are not text")
    if "pin-value" in query or "pin-value" in path:
        raise Misconfigured(
            "secret.reference",
            "the PIN stands in the URI of a key",
            hint="Write pin-source=env:NAME (or file:PATH, fd:NUMBER, prompt:LABEL) in place of pin-value.",
        )
    named, options = _pairs(path, ";", _PATH), _pairs(query, "&", _QUERY)
    if missing := [name for name in ("token",) if name not in named] + [name for name in _QUERY if name not in options]:
        raise _malformed(f"it lacks {', '.join(missing)}")
    if "object" not in named and "id" not in named:
        raise _malformed("it names neither an object nor an id")
    if named.get("type", b"private") != b"private":
        raise _malformed("its type is not private")
    if len(named["token"]) > _TOKEN_LABEL:
        raise _malformed("the label of a token has at most 32 octets (PKCS#11, CK_TOKEN_INFO)")
    return Pkcs11Uri(
        module=base / _text(options["module-path"]),
        token=_text(named["token"]),
        label=_text(named["object"]) if "object" in named else None,
        key_id=named.get("id"),
        pin_source=_text(options["pin-source"]),
    )


def _pairs(text: str, separator: str, names: Collection[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in text.split(separator) if text else ():
        name, _, value = item.partition("=")
        if name not in names or not value:
            raise _malformed(f"one of its parts is none of {', '.join(names)}")
        if name in found:
            raise _malformed(f"{name} stands in it twice")
        if _HALF_ESCAPE.search(value):
            raise _malformed(f"a % in its {name} is not followed by two hexadecimal digits; a % itself is %25")
        found[name] = unquote_to_bytes(value)
    return found


def _text(octets: bytes) -> str:
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise _malformed("it holds characters that are not text")
    return text


def _malformed(reason: str) -> Misconfigured:
    return Misconfigured(
        "key.uri",
        f"this is not the URI of a key in a token: {reason}",
        hint="Write pkcs11:token=LABEL;object=NAME?module-path=PATH&pin-source=REFERENCE.",
    )
