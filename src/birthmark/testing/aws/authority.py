"""The CA that signs requests for the service: what a device gets back for its CSR."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.pki.certread import UNREADABLE
from birthmark.testing.aws.refusal import Refusal, invalid

__all__ = ["AmazonCa", "read_certificate"]

_END = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
_NAME = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Amazon Web Services O=Amazon.com Inc. (emulated)"),
        x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
    ]
)


class AmazonCa:
    """A key made now; it lives in this process only."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, csr_pem: str) -> str:
        """Return the certificate (PEM) for a PKCS#10 request; one that does not hold is ``Refusal``."""
        try:
            request = x509.load_pem_x509_csr(csr_pem.encode())
            if not request.is_signature_valid:
                raise invalid("The signature of the certificate signing request does not hold.")
            return self._issue(request.subject, request.public_key())
        except UNREADABLE:
            raise invalid("The certificate signing request cannot be read.") from None

    def issue(self, key: Any) -> str:
        """Return a certificate (PEM) for a public key, as the service names its own."""
        return self._issue(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AWS IoT Certificate")]), key)

    def _issue(self, subject: x509.Name, key: Any) -> str:
        builder = (
            x509.CertificateBuilder(_NAME, subject, key, x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(minutes=2))
            .not_valid_after(_END)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def read_certificate(pem: str) -> tuple[x509.Certificate, str]:
    """Return the one certificate in ``pem`` and its PEM without whatever stood around it."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
        if len(found) != 1:
            raise Refusal("CertificateValidationException", "Exactly one certificate is expected.")
        _ = found[0].subject, found[0].extensions
        return found[0], found[0].public_bytes(Encoding.PEM).decode()
    except UNREADABLE:
        raise Refusal("CertificateValidationException", "The certificate cannot be read.") from None
