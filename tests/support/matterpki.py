"""A PAA, a PAI and device attestation credentials (Matter core specification, 6.2.2), made with ``cryptography``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from birthmark.model.secret import Secret
from birthmark.ports import Credential

__all__ = ["MatterPki"]

_VENDOR = ObjectIdentifier("1.3.6.1.4.1.37244.2.1")
_PRODUCT = ObjectIdentifier("1.3.6.1.4.1.37244.2.2")
_UNUSED_BITS = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)
_START = datetime(2026, 1, 1, tzinfo=UTC)


def _name(text: str, vendor: str | None, product: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, text)]
    attributes += [x509.NameAttribute(_VENDOR, vendor)] if vendor else []
    attributes += [x509.NameAttribute(_PRODUCT, product)] if product else []
    return x509.Name(attributes)


class MatterPki:
    """One vendor's chain. ``vendor`` and ``product``: four upper-case hexadecimal digits."""

    def __init__(self, vendor: str = "FFF1", product: str = "8000") -> None:
        self._vendor, self._product = vendor, product
        self._paa_key, self.pai_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        paa = _name("Test PAA", None)
        self.paa = self._sign(paa, self._paa_key.public_key(), paa, self._paa_key, length=1)
        self._pai_name = _name("Test PAI", vendor)
        self.pai = self._sign(self._pai_name, self.pai_key.public_key(), paa, self._paa_key, length=0)

    def credential(self, device_serial: str, *, product: str | None = None) -> Credential:
        """Return the credential of a device with a fresh key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(device_serial, self._vendor, product or self._product)
        dac = self._sign(subject, key.public_key(), self._pai_name, self.pai_key, length=None)
        chain = tuple(one.public_bytes(Encoding.DER) for one in (self.pai, self.paa))
        secret = Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        return Credential(device_serial, dac.public_bytes(Encoding.DER), chain, secret, intent=1, issued_seq=2)

    def _sign(self, subject: Any, public_key: Any, issuer: Any, issuer_key: Any, *, length: int | None) -> Any:
        ca = length is not None
        usage = dict.fromkeys(_UNUSED_BITS, False)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_START)
            .not_valid_after(_START + timedelta(days=20 * 365))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
