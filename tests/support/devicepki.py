"""A root, an issuing CA and credentials of devices, made with the builders of ``cryptography``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.model.secret import Secret
from birthmark.pki.algorithms import ALGORITHMS
from birthmark.ports import Credential

__all__ = ["credential_for", "issuing_key", "pool_credential"]

_START = datetime(2026, 1, 1, tzinfo=UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(subject: str, public_key: Any, issuer: str, issuer_key: Any, *, ca: bool) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_START)
        .not_valid_after(_START + timedelta(days=20 * 365))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


@cache
def _chain() -> tuple[Any, tuple[bytes, ...]]:
    root_key, issuing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("Test Root", root_key.public_key(), "Test Root", root_key, ca=True)
    issuing = _certificate("Test Issuing", issuing_key.public_key(), "Test Root", root_key, ca=True)
    return issuing_key, tuple(one.public_bytes(Encoding.DER) for one in (issuing, root))


def issuing_key() -> Any:
    """Return the key of the CA that issues them all."""
    return _chain()[0]


def credential_for(public_key: Any, device_serial: str, private_key: Secret | None = None) -> Credential:
    """Return a credential for a key, as an order would: leaf, issuing CA, root."""
    issuing_key, chain = _chain()
    leaf = _certificate(device_serial, public_key, "Test Issuing", issuing_key, ca=False)
    return Credential(device_serial, leaf.public_bytes(Encoding.DER), chain, private_key, intent=1, issued_seq=2)


def pool_credential(device_serial: str, algorithm: str = "p256") -> Credential:
    """Return a credential that brings a fresh private key."""
    key = ALGORITHMS[algorithm].generate()
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return credential_for(key.public_key(), device_serial, Secret(pkcs8))
