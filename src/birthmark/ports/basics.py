"""What is handed in everywhere: time, entropy, secrets, keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from birthmark.model.secret import Secret

__all__ = ["Clock", "DestroysKeys", "Entropy", "Keys", "SecretsHandler"]

Clock = Callable[[], datetime]
"""Aware, UTC."""
Entropy = Callable[[int], bytes]
SecretsHandler = Callable[[str], Secret]
"""Turns a secret reference (``env:NAME``, ``file:PATH``, ``fd:3``, ``prompt:``) into the secret."""


class Keys(Protocol):
    """Private keys named by a URI.

    ``open`` returns a ``cryptography`` private-key object. ``generate`` never overwrites a key. Sessions
    stay open until ``close``; closing twice is safe. No operation shows a secret.
    """

    def open(self, uri: str) -> CertificateIssuerPrivateKeyTypes: ...

    def generate(self, uri: str, algorithm: str) -> CertificateIssuerPrivateKeyTypes: ...

    def close(self) -> None: ...


@runtime_checkable
class DestroysKeys(Protocol):
    """What ``Keys`` can do besides, where keys can be destroyed from here.

    ``inventory`` names what is kept at the place of a key, ascending: it shows no secret and opens no key. ``destroy``
    returns what was done, in words for a transcript; a key that is half destroyed or gone is no error. After it
    ``Keys.open`` says that there is no such key.
    """

    def inventory(self, uri: str) -> Sequence[str]: ...

    def destroy(self, uri: str) -> str: ...
