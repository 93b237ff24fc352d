"""Verifies a signature over the very octets that were signed, by the AlgorithmIdentifier that came along.

One table for requests and certificates. SHA-1, MD5, DSA and RSA-PSS are not in it, so they are unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

__all__ = ["SIGNATURES", "SignatureKind", "verify_signature"]


@dataclass(frozen=True, slots=True)
class SignatureKind:
    """One signature algorithm: its name, the DER of its parameters (empty if absent), how to verify."""

    name: str
    parameters: bytes
    verify: Callable[[object, bytes, bytes], bool]


def _ecdsa(name: str, digest: hashes.HashAlgorithm) -> SignatureKind:
    def verify(key: object, signature: bytes, data: bytes) -> bool:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, data, ec.ECDSA(digest))
        return True

    return SignatureKind(name, b"", verify)


def _rsa(name: str, digest: hashes.HashAlgorithm) -> SignatureKind:
    def verify(key: object, signature: bytes, data: bytes) -> bool:
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        key.verify(signature, data, padding.PKCS1v15(), digest)
        return True

    return SignatureKind(name, b"\x05\x00", verify)


def _ed25519(key: object, signature: bytes, data: bytes) -> bool:
    if not isinstance(key, ed25519.Ed25519PublicKey):
        return False
    key.verify(signature, data)
    return True


_MlDsaKey = mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey


def _ml_dsa(name: str, kind: type[_MlDsaKey]) -> SignatureKind:
    def verify(key: object, signature: bytes, data: bytes) -> bool:
        if not isinstance(key, kind):
            return False
        key.verify(signature, data)
        return True

    return SignatureKind(name, b"", verify)


SIGNATURES: dict[str, SignatureKind] = {
    "1.2.840.10045.4.3.2": _ecdsa("ecdsa-with-SHA256", hashes.SHA256()),
    "1.2.840.10045.4.3.3": _ecdsa("ecdsa-with-SHA384", hashes.SHA384()),
    "1.2.840.10045.4.3.4": _ecdsa("ecdsa-with-SHA512", hashes.SHA512()),
    "1.2.840.113549.1.1.11": _rsa("sha256WithRSAEncryption", hashes.SHA256()),
    "1.2.840.113549.1.1.12": _rsa("sha384WithRSAEncryption", hashes.SHA384()),
    "1.2.840.113549.1.1.13": _rsa("sha512WithRSAEncryption", hashes.SHA512()),
    "1.3.101.112": SignatureKind("Ed25519", b"", _ed25519),
    "2.16.840.1.101.3.4.3.17": _ml_dsa("ML-DSA-44", mldsa.MLDSA44PublicKey),
    "2.16.840.1.101.3.4.3.18": _ml_dsa("ML-DSA-65", mldsa.MLDSA65PublicKey),
    "2.16.840.1.101.3.4.3.19": _ml_dsa("ML-DSA-87", mldsa.MLDSA87PublicKey),
}
"""Signature OID → kind (RFC 5758, 4055, 8410, 9881)."""


def verify_signature(kind: SignatureKind, spki_der: bytes, signature: bytes, data: bytes) -> bool:
    """Say whether ``signature`` over ``data`` is good under the key; a key of another kind is a no."""
    try:
        key = load_der_public_key(spki_der)
        return kind.verify(key, signature, data)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
