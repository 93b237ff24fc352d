"""Private keys that stay in a token, in the shape of those of ``cryptography``: its builders take them as they are.

They sign and show the public key; every other private operation is ``Refused("key.token.private")``. A token may sign
with another key than the one it shows, so whoever uses such a key (``is_token``) verifies each signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from birthmark.errors import Refused, StationFault

__all__ = ["TokenEcKey", "TokenEd25519Key", "TokenKey", "TokenRsaKey", "token_key"]

Signer = Callable[[bytes, str], bytes]
"""(input, name of the mechanism without CKM_) → signature as the token gives it."""

_RSA_MECHANISMS = {"sha256": "SHA256_RSA_PKCS", "sha384": "SHA384_RSA_PKCS", "sha512": "SHA512_RSA_PKCS"}


class TokenKey:
    """What the keys of all algorithms have in common."""

    is_token: ClassVar[bool] = True

    def __init__(self, public_key: Any, signer: Signer, name: str) -> None:
        self._public_key = public_key
        self._signer = signer
        self._name = name

    def public_key(self) -> Any:
        return self._public_key

    @property
    def key_size(self) -> int:
        return int(self._public_key.key_size)

    def private_bytes(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("private_bytes")

    def private_bytes_raw(self) -> NoReturn:
        self._refuse("private_bytes_raw")

    def private_numbers(self) -> NoReturn:
        self._refuse("private_numbers")

    def exchange(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("exchange")

    def decrypt(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("decrypt")

    def _refuse(self, operation: str) -> NoReturn:
        raise Refused(
            "key.token.private",
            f"the key {self._name} stays in its token",
            hint="A key in a token only signs; make a key in a file where the key itself is needed.",
            operation=operation,
        )

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key in a token cannot be pickled: open it again by its URI")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"


class TokenEcKey(TokenKey, ec.EllipticCurvePrivateKey):
    """P-256 or P-384. The digest is made here: CKM_ECDSA is the one mechanism that every token has."""

    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public_key.curve
        return curve

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the DER Ecdsa-Sig-Value (RFC 3279, 2.2.3)."""
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed):
            digest = bytes(data)
            if len(digest) != algorithm.digest_size:
                raise ValueError("the digest has another length than its algorithm")
        else:
            digest = _digest(algorithm, data)
        size = (self.key_size + 7) // 8
        # FIPS 186-5, 6.4.1: the leftmost bits count. Not every token cuts a longer digest itself.
        raw = self._signer(digest[:size], "ECDSA")
        if len(raw) != 2 * size:
            raise StationFault(
                "key.signature.malformed",
                f"the token returned {len(raw)} octets for a signature of {2 * size}",
                hint="Check the token and its driver; the signature was thrown away.",
                key=self._name,
            )
        return encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))


class TokenRsaKey(TokenKey, rsa.RSAPrivateKey):
    """RSA, PKCS#1 v1.5 (RFC 8017, 8.2)."""

    def sign(self, data: Any, padding: AsymmetricPadding, algorithm: Any) -> bytes:
        mechanism = _RSA_MECHANISMS.get(getattr(algorithm, "name", ""))
        if not isinstance(padding, PKCS1v15) or mechanism is None:
            raise UnsupportedAlgorithm("keys in tokens sign with PKCS#1 v1.5 and SHA-256, SHA-384 or SHA-512")
        return self._signer(bytes(data), mechanism)


class TokenEd25519Key(TokenKey, ed25519.Ed25519PrivateKey):
    """Ed25519 (RFC 8032)."""

    def sign(self, data: Any) -> bytes:
        return self._signer(bytes(data), "EDDSA")


def token_key(public_key: Any, signer: Signer, name: str) -> TokenKey:
    """Return the private key that belongs to ``public_key`` and signs with ``signer``; ``name`` is shown."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return TokenEcKey(public_key, signer, name)
    if isinstance(public_key, rsa.RSAPublicKey):
        return TokenRsaKey(public_key, signer, name)
    return TokenEd25519Key(public_key, signer, name)


def _digest(algorithm: hashes.HashAlgorithm, data: Any) -> bytes:
    if not isinstance(algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        raise UnsupportedAlgorithm("keys in tokens sign SHA-256, SHA-384 or SHA-512")
    return hashlib.new(algorithm.name, data).digest()
