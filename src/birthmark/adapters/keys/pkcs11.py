"""``pkcs11:token=LABEL;object=NAME?module-path=PATH&pin-source=REFERENCE``: a private key that stays in a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from birthmark.adapters.pkcs11_token import Pkcs11Token
from birthmark.adapters.pkcs11_uri import Pkcs11Uri, parse_pkcs11_uri
from birthmark.errors import Misconfigured
from birthmark.pki.algorithms import algorithm_named, algorithm_of
from birthmark.ports import SecretsHandler

__all__ = ["Pkcs11Keys"]


class Pkcs11Keys:
    """Implements ``ports.Keys`` and ``ports.DestroysKeys``. A relative module-path starts at ``base``.

    Each PIN is asked for once.
    """

    def __init__(self, secrets: SecretsHandler, base: Path) -> None:
        self._secrets = secrets
        self._base = base
        self._tokens: dict[tuple[Path, str, str], Pkcs11Token] = {}

    def open(self, uri: str) -> Any:
        wanted = parse_pkcs11_uri(uri, base=self._base)
        key = self._token(wanted).private_key(wanted.label, wanted.key_id)
        algorithm_of(key.public_key())
        return key

    def generate(self, uri: str, algorithm: str) -> Any:
        wanted = parse_pkcs11_uri(uri, base=self._base)
        if wanted.label is None:
            raise Misconfigured(
                "key.uri",
                "a key to be made in a token needs a name",
                hint="Add object=NAME to the URI.",
            )
        algorithm_named(algorithm)
        return self._token(wanted).generate(wanted.label, wanted.key_id, algorithm)

    def inventory(self, uri: str) -> list[str]:
        """Return kind, label and id of every object in the token."""
        token = self._token(parse_pkcs11_uri(uri, base=self._base))
        return sorted(f"{one.kind} {one.label!r} id {one.key_id.hex() or 'none'}" for one in token.find())

    def destroy(self, uri: str) -> str:
        """Remove private and public key (C_DestroyObject)."""
        wanted = parse_pkcs11_uri(uri, base=self._base)
        if wanted.label is None:
            raise Misconfigured(
                "key.uri",
                "a key to be destroyed in a token needs a name",
                hint="Add object=NAME to the URI.",
            )
        count = self._token(wanted).destroy(wanted.label, wanted.key_id, kinds=("private", "public"))
        return f"C_DestroyObject on {count} objects (private and public key)"

    def close(self) -> None:
        """Log out and close the sessions; keys handed out before sign no more."""
        while self._tokens:
            self._tokens.popitem()[1].close()

    def _token(self, wanted: Pkcs11Uri) -> Pkcs11Token:
        name = (wanted.module, wanted.token, wanted.pin_source)
        if name not in self._tokens:
            self._tokens[name] = Pkcs11Token(wanted.module, wanted.token, self._secrets(wanted.pin_source))
        return self._tokens[name]
