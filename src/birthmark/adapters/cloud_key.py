"""Private keys that stay in a cloud's key service, in the shape of those of ``cryptography``.

Every signature is verified with the public key before it is returned: the service, or who stands between, may sign with
another key or not at all. Private operations other than signing are ``Refused("key.token.private")``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from birthmark.adapters.pkcs11_key import TokenKey
from birthmark.errors import Refused, Tampered

__all__ = ["CloudEcKey", "CloudRsaKey", "CloudSigner", "cloud_key"]

CloudSigner = Callable[[bytes | None, bytes, str], bytes]
"""(message or None, its digest, name of the hash) → signature: DER (RFC 3279, 2.2.3) for EC, octets for RSA."""


class CloudEcKey(TokenKey, ec.EllipticCurvePrivateKey):
    """P-256 or P-384."""

    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public_key.curve
        return curve

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the DER Ecdsa-Sig-Value, verified."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.HashAlgorithm) or isinstance(algorithm, Prehashed):
            signature = self._ask(None, bytes(data), algorithm)
        else:
            signature = self._ask(bytes(data), hashlib.new(algorithm.name, data).digest(), algorithm)
        return self._verified(lambda: self._public_key.verify(signature, data, signature_algorithm), signature)

    def _ask(self, message: bytes | None, digest: bytes, algorithm: Any) -> bytes:
        wanted = "sha256" if self.key_size == 256 else "sha384"
        named = algorithm.name if isinstance(algorithm, hashes.HashAlgorithm) else _name_by_size(digest)
        if named != wanted or len(digest) != hashlib.new(wanted).digest_size:
            raise UnsupportedAlgorithm(f"a key of {self.key_size} bits in a cloud signs {wanted} only")
        return self._signer(message, digest, wanted)  # type: ignore[arg-type,call-arg]

    def _verified(self, verify: Callable[[], None], signature: bytes) -> bytes:
        return _verified(verify, signature, self._name)


class CloudRsaKey(TokenKey, rsa.RSAPrivateKey):
    """RSA, PKCS#1 v1.5 (RFC 8017, 8.2) with SHA-256."""

    def sign(self, data: Any, padding: AsymmetricPadding, algorithm: Any) -> bytes:
        """Return the signature, verified."""
        if not isinstance(padding, PKCS1v15) or not isinstance(algorithm, hashes.SHA256):
            raise UnsupportedAlgorithm("RSA keys in a cloud sign with PKCS#1 v1.5 and SHA-256")
        digest = hashlib.sha256(data).digest()
        signature = self._signer(bytes(data), digest, "sha256")  # type: ignore[arg-type,call-arg]
        return _verified(lambda: self._public_key.verify(signature, data, padding, algorithm), signature, self._name)


def _name_by_size(digest: bytes) -> str:
    return {32: "sha256", 48: "sha384"}.get(len(digest), "")


def _verified(verify: Callable[[], None], signature: bytes, name: str) -> bytes:
    try:
        verify()
    except InvalidSignature:
        raise Tampered(
            "key.signature.wrong",
            f"the key service returned a signature that {name} does not verify; it was thrown away",
            hint="Stop: check which key the service holds under this name, and what stands between it and here.",
            key=name,
        ) from None
    return signature


def cloud_key(public_key: Any, signer: CloudSigner, name: str) -> TokenKey:
    """Return the private key that belongs to ``public_key``; ``Refused("key.cloud.kind")`` for other kinds."""
    kinds: dict[type, type[TokenKey]] = {ec.EllipticCurvePublicKey: CloudEcKey, rsa.RSAPublicKey: CloudRsaKey}
    for public, private in kinds.items():
        if isinstance(public_key, public):
            return private(public_key, signer, name)  # type: ignore[arg-type]
    raise Refused(
        "key.cloud.kind",
        f"the key {name} is of a kind that is not used in clouds",
        hint="Use a P-256, P-384, RSA-2048 or RSA-3072 key for signing.",
        key=name,
    )
