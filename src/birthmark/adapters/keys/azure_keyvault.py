"""``azure-kv:https://VAULT.vault.azure.net/keys/NAME[/VERSION]``: a private key in Azure Key Vault or Managed HSM.

Credentials come from ``DefaultAzureCredential`` and never stand in a URI. The vault gets digests, never messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from birthmark.adapters.cloud_key import cloud_key
from birthmark.adapters.extras import require_extra
from birthmark.errors import Misconfigured, Refused, StationFault, Unavailable
from birthmark.pki.algorithms import algorithm_named, algorithm_of
from birthmark.ports import SecretsHandler

__all__ = ["AzureKeyVaultKeys"]

_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
_EC_NAMES, _RSA_BITS = {"p256": "P-256", "p384": "P-384"}, {"rsa2048": 2048, "rsa3072": 3072}
_EC_ALGORITHMS, _RSA_ALGORITHMS = {"sha256": "ES256", "sha384": "ES384"}, {"sha256": "RS256"}
_PATH = re.compile(r"/keys/([0-9A-Za-z-]{1,127})(?:/([0-9a-f]{32}))?")


class AzureKeyVaultKeys:
    """Implements ``ports.Keys``. One credential, one client a vault; the vault decides who may do what."""

    def __init__(self, secrets: SecretsHandler, base: Path) -> None:
        for package in ("azure", "azure.identity", "azure.keyvault", "azure.keyvault.keys"):
            require_extra("azure", package)
        self._credential: Any = None
        self._clients: dict[str, Any] = {}
        self._signers: list[Any] = []

    def open(self, uri: str) -> Any:
        vault, name, version = _parse(uri)
        client = self._client(vault)
        with _failures(name):
            found = client.get_key(name, version)
        return self._key(found, name)

    def generate(self, uri: str, algorithm: str) -> Any:
        vault, name, version = _parse(uri)
        algorithm_named(algorithm)
        if algorithm not in _EC_NAMES and algorithm not in _RSA_BITS:
            raise Misconfigured(
                "key.algorithm.token",
                f"Azure Key Vault has no keys of kind {algorithm}",
                hint=f"Use one of {', '.join((*_EC_NAMES, *_RSA_BITS))}.",
                algorithm=algorithm,
            )
        if version is not None:
            raise Misconfigured("key.uri", "a key to be made has no version yet", hint="Leave the version out.")
        client = self._client(vault)
        # The vault would make a new version of a key that exists: the old one would not sign any more.
        if self._exists(client, name):
            raise Refused(
                "key.exists",
                f"there is already a key {name} in this vault",
                hint="A key is never overwritten: name another one, or delete that key on purpose.",
                key=name,
            )
        operations = {"key_operations": ["sign", "verify"], "exportable": False}
        with _failures(name):
            if algorithm in _EC_NAMES:
                made = client.create_ec_key(name, curve=_EC_NAMES[algorithm], **operations)
            else:
                made = client.create_rsa_key(name, size=_RSA_BITS[algorithm], **operations)
        return self._key(made, name)

    def close(self) -> None:
        for thing in (*self._signers, *self._clients.values(), *([self._credential] if self._credential else [])):
            thing.close()
        self._signers, self._clients, self._credential = [], {}, None

    def _exists(self, client: Any, name: str) -> bool:
        try:
            with _failures(name):
                client.get_key(name)
        except Misconfigured as problem:
            if problem.code == "azure.unknown":
                return False
            raise
        return True

    def _key(self, found: Any, name: str) -> Any:
        from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm

        public_key = _public_key(found.key, name)
        names = _RSA_ALGORITHMS if algorithm_of(public_key).name.startswith("rsa") else _EC_ALGORITHMS
        # The id holds the version: the key that was opened is the one that signs.
        signer = CryptographyClient(found.id, self._credential)
        self._signers.append(signer)

        def sign(message: bytes | None, digest: bytes, hash_name: str) -> bytes:
            with _failures(name):
                raw = bytes(signer.sign(SignatureAlgorithm(names[hash_name]), digest).signature)
            return raw if names is _RSA_ALGORITHMS else _der_signature(raw, name)

        return cloud_key(public_key, sign, f"azure-kv:{name}")

    def _client(self, vault: str) -> Any:
        if vault not in self._clients:
            from azure.identity import DefaultAzureCredential
            from azure.keyvault.keys import KeyClient

            self._credential = self._credential or DefaultAzureCredential()
            self._clients[vault] = KeyClient(vault, self._credential)
        return self._clients[vault]


def _parse(uri: str) -> tuple[str, str, str | None]:
    """Return vault URL, key name and version."""
    scheme, _, rest = uri.partition(":")
    try:
        parts = urlsplit(rest)
        match = _PATH.fullmatch(parts.path)
        good = parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc
        extra = parts.query or parts.fragment
    except ValueError:
        match, good, extra = None, False, ""
    if scheme != "azure-kv" or match is None or not good or extra:
        raise Misconfigured(
            "key.uri",
            "this is not the URI of a key in Azure Key Vault",
            hint="Write azure-kv:https://VAULT.vault.azure.net/keys/NAME or with /VERSION behind it.",
        )
    return f"https://{parts.netloc}", match[1], match[2]


def _public_key(jwk: Any, name: str) -> Any:
    try:
        if str(getattr(jwk.kty, "value", jwk.kty)).startswith("RSA"):
            return rsa.RSAPublicNumbers(int.from_bytes(jwk.e, "big"), int.from_bytes(jwk.n, "big")).public_key()
        x, y = int.from_bytes(jwk.x, "big"), int.from_bytes(jwk.y, "big")
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[str(getattr(jwk.crv, "value", jwk.crv))]).public_key()
    except (KeyError, TypeError, ValueError) as problem:
        raise Refused(
            "key.cloud.kind",
            f"the key {name} is of a kind that is not used in clouds",
            hint="Use a P-256, P-384, RSA-2048 or RSA-3072 key for signing.",
            key=name,
        ) from problem


def _der_signature(raw: bytes, name: str) -> bytes:
    """Key Vault returns r | s (RFC 7518, 3.4)."""
    half = len(raw) // 2
    if len(raw) not in (64, 96):
        raise StationFault(
            "key.signature.malformed",
            f"the vault returned {len(raw)} octets for a signature",
            hint="Check the key and its vault; the signature was thrown away.",
            key=name,
        )
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Turn what the SDK raises into our errors; its messages are not repeated: they hold parts of requests.

    Raises ``Misconfigured``: ``azure.credentials``, ``azure.unknown``; ``Refused("azure.refused")``;
    ``Unavailable("azure.later")``.
    """
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    try:
        yield
    except ClientAuthenticationError:
        raise _credentials(name) from None
    except HttpResponseError as problem:
        status = problem.status_code or 0
        if status in (401, 403):
            raise _credentials(name) from None
        if status == 404:
            raise Misconfigured(
                "azure.unknown",
                f"the vault has no key {name}",
                hint="Check vault, name and version in the URI.",
                key=name,
            ) from None
        if status == 429 or status >= 500:
            raise _later(name, status) from None
        raise Refused(
            "azure.refused",
            f"the vault refuses the request for the key {name} (HTTP {status})",
            hint="Check the key's kind, operations and state in the vault.",
            key=name,
            status=status,
        ) from None
    except AzureError:
        raise _later(name, 0) from None


def _credentials(name: str) -> Misconfigured:
    return Misconfigured(
        "azure.credentials",
        f"Azure does not let this program use the key {name}",
        hint="Give this machine an identity that may; birthmark uses DefaultAzureCredential.",
        key=name,
    )


def _later(name: str, status: int) -> Unavailable:
    return Unavailable(
        "azure.later",
        f"the vault cannot answer for the key {name} now",
        hint="Run the same command again; check network and limits if it repeats.",
        key=name,
        status=status,
    )
