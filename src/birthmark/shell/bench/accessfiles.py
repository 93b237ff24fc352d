"""TLS files of a throw-away access CA, for benches."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from birthmark.shell.workspace.wiring import utc_now

__all__ = ["AccessFiles"]


class AccessFiles:
    """An access CA in memory; its certificates and their keys go to ``directory``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("bench access CA")
        self._certificate = self._builder(self._name, self._key, ca=True).sign(self._key, SHA256())
        (directory / "ca.pem").write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def make(self, name: str, *, server: bool = False) -> tuple[bytes, str]:
        """Write ``name.pem`` and ``name.key``; return the certificate (DER) and the SHA-256 of its key in hex."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(name), key, ca=False)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if server:
            here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(here, critical=False)
        certificate = builder.sign(self._key, SHA256())
        (self._directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        path = self._directory / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return certificate.public_bytes(Encoding.DER), sha256(spki).hexdigest()

    def _builder(self, subject: x509.Name, key: Any, *, ca: bool) -> x509.CertificateBuilder:
        now = utc_now()
        return (
            x509.CertificateBuilder(
                self._name, subject, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1),
                now + timedelta(days=1),
            )
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
