"""Writes PKCS#10 requests (RFC 2986) without a name: who signs decides what the certificate says."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.pki.algorithms import algorithm_of

__all__ = ["unnamed_request"]

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "p256": hashes.SHA256(),
    "p384": hashes.SHA384(),
    "rsa2048": hashes.SHA256(),
    "rsa3072": hashes.SHA256(),
}
"""Ed25519 and ML-DSA take the message itself."""


def unnamed_request(private_key: Any) -> bytes:
    """Return a request (DER) that proves the possession of a key and asks for nothing else."""
    digest: Any = _DIGESTS.get(algorithm_of(private_key.public_key()).name)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private_key, digest)
    return request.public_bytes(Encoding.DER)
