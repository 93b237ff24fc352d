"""What every signing target does alike: the form of a proof and of a CSR (docs/targets.md)."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.model.ids import parse_device_serial
from birthmark.pki.algorithms import algorithm_of, is_software_key
from birthmark.wire.receipt import PROOF_PREFIX

__all__ = ["device_csr", "proof_message", "sign_proof"]

_DIGESTS: dict[str, hashes.HashAlgorithm | None] = {
    "p256": hashes.SHA256(),
    "p384": hashes.SHA384(),
    "rsa2048": hashes.SHA256(),
    "rsa3072": hashes.SHA256(),
    "ed25519": None,
    "mldsa44": None,
    "mldsa65": None,
}


def proof_message(challenge: bytes) -> bytes:
    """Return the octets that are signed for ``challenge``."""
    return PROOF_PREFIX + challenge


def sign_proof(private_key: Any, challenge: bytes) -> bytes:
    """Sign a challenge as a certificate of this key's kind would be signed."""
    return algorithm_of(private_key.public_key()).sign(private_key, proof_message(challenge))


def device_csr(private_key: Any, device_serial: str) -> bytes:
    """Return a CSR (DER, RFC 2986) whose subject is CN = device serial and nothing else.

    A key in memory signs ECDSA the deterministic way (RFC 6979), so that asking again gives the same octets.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, parse_device_serial(device_serial))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    digest: Any = _DIGESTS[algorithm_of(private_key.public_key()).name]
    repeatable = isinstance(private_key, ec.EllipticCurvePrivateKey) and is_software_key(private_key)
    request = builder.sign(private_key, digest, ecdsa_deterministic=True if repeatable else None)
    return request.public_bytes(Encoding.DER)
