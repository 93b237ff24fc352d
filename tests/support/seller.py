"""A PKI that is not ours: it sells intermediates and signs device certificates, by ``cryptography``'s own builders."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Seller", "name_of", "pem"]

FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_CA_USAGE = dict.fromkeys(
    (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "encipher_only", "decipher_only",
    ),
    False,
)  # fmt: skip


def name_of(text: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Seller"), x509.NameAttribute(NameOID.COMMON_NAME, text)]
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


@dataclass
class Authority:
    """A CA with its key."""

    certificate: x509.Certificate
    key: Any

    def sign_ca(
        self,
        public_key: Any,
        name: x509.Name,
        *,
        path_length: int | None = 0,
        not_before: datetime | None = None,
        not_after: datetime = FOREVER,
        ca: bool = True,
        may_sign: bool = True,
        constraints: x509.NameConstraints | None = None,
    ) -> x509.Certificate:
        builder = _builder(name, self.certificate.subject, public_key, not_before, not_after)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True
        )
        usage = x509.KeyUsage(**_CA_USAGE, key_cert_sign=may_sign, crl_sign=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        builder = builder.add_extension(_authority_key(self.certificate), critical=False)
        if constraints is not None:
            builder = builder.add_extension(constraints, critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def sub_ca(self, text: str, **more: Any) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(self.sign_ca(key.public_key(), name_of(text), **more), key)

    def sign_csr(
        self,
        csr: x509.CertificateSigningRequest,
        *,
        days: int = 3650,
        subject: x509.Name | None = None,
        public_key: Any = None,
        drop: tuple[type[x509.ExtensionType], ...] = (),
        not_after: datetime | None = None,
        extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    ) -> x509.Certificate:
        """Sign a device's request as it is, or with what a test (or a rule of the service) puts in its place."""
        now = datetime.now(UTC)
        key = public_key or csr.public_key()
        builder = _builder(
            csr.subject if subject is None else subject,
            self.certificate.subject,
            key,
            now - timedelta(minutes=5),
            not_after or now + timedelta(days=days),
        )
        asked = [(extension.value, extension.critical) for extension in csr.extensions]
        for value, critical in asked if extensions is None else extensions:
            if not isinstance(value, drop):
                builder = builder.add_extension(value, critical)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        builder = builder.add_extension(_authority_key(self.certificate), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass
class Seller:
    """A root and an issuing CA below it."""

    root: Authority = field(init=False)
    issuing: Authority = field(init=False)

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = name_of("Root of the seller")
        builder = _builder(name, name, key.public_key(), None, FOREVER)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.KeyUsage(**_CA_USAGE, key_cert_sign=True, crl_sign=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        self.root = Authority(builder.sign(key, hashes.SHA256()), key)
        self.issuing = self.root.sub_ca("Issuing CA of the seller", path_length=1)


def _builder(
    name: x509.Name, issuer: x509.Name, key: Any, not_before: datetime | None, not_after: datetime
) -> x509.CertificateBuilder:
    key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or datetime(2025, 1, 1, tzinfo=UTC))
        .not_valid_after(not_after)
    )


def _authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)
