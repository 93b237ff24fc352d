"""Texts that commands put into settings files: TOML strings and keys, and key URIs."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

__all__ = ["ca_key_uri", "file_key_uri", "file_uri", "toml_key", "toml_text"]

_PLAIN = "/:._-"
"""What stands in a URI as it is; everything else is percent-encoded (RFC 3986, 2.1)."""


def toml_text(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(text: str) -> str:
    """Return a TOML key: bare where it can be, else quoted."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml_text(text)


def file_key_uri(name: str, secret: str) -> str:
    """Return the URI of an encrypted key file of the workspace. ``secret``: reference to its passphrase."""
    return file_uri(f"keys/{name}.pem", secret)


def file_uri(path: str, secret: str) -> str:
    """Return the URI of an encrypted key file; ``path`` relative to the workspace."""
    return f"file:{quote(path, safe=_PLAIN)}?secret={quote(secret, safe=_PLAIN)}"


def ca_key_uri(name: str, secret: str, token: tuple[str, str] | None) -> str:
    """Return the URI of a CA's key: in a token (PKCS#11 module, label) if there is one, else in a file."""
    if token is None:
        return file_key_uri(name, secret)
    module, label = token
    where = f"module-path={quote(module, safe=_PLAIN)}&pin-source={quote(secret, safe=_PLAIN)}"
    return f"pkcs11:token={quote(label, safe='')};object={name}?{where}"
