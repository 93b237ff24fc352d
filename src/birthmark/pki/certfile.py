"""Certificates as people send them: DER, PEM with any text around, or PKCS#7 certs-only (RFC 2315, RFC 5652)."""

from __future__ import annotations

import warnings

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from birthmark.errors import Refused
from birthmark.pki.certread import UNREADABLE

__all__ = ["read_certificates"]

_MAX_OCTETS = 256 * 1024
_MAX_CERTIFICATES = 32


def read_certificates(data: bytes) -> list[bytes]:
    """Return the certificates (DER) in a file, in its order; ``Refused("certificate.file")`` if there are none."""
    if len(data) > _MAX_OCTETS:
        raise _unreadable(f"it has {len(data)} octets")
    for read in (_pem, _pem_pkcs7, _der, _der_pkcs7):
        try:
            with warnings.catch_warnings():
                # BER is tolerated here: the certificates themselves are checked afterwards.
                warnings.simplefilter("ignore")
                found = read(data)
        except (*UNREADABLE, UnsupportedAlgorithm):
            continue
        if 1 <= len(found) <= _MAX_CERTIFICATES:
            return [certificate.public_bytes(Encoding.DER) for certificate in found]
    raise _unreadable(f"it is neither DER nor PEM nor PKCS#7 with 1 to {_MAX_CERTIFICATES} certificates")


def _pem(data: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(data)


def _pem_pkcs7(data: bytes) -> list[x509.Certificate]:
    return pkcs7.load_pem_pkcs7_certificates(data)


def _der(data: bytes) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(data)]


def _der_pkcs7(data: bytes) -> list[x509.Certificate]:
    return pkcs7.load_der_pkcs7_certificates(data)


def _unreadable(reason: str) -> Refused:
    return Refused(
        "certificate.file",
        f"this file holds no certificates: {reason}",
        hint="Send X.509 certificates in PEM or DER, or a PKCS#7 file with certificates only.",
        reason=reason,
    )
