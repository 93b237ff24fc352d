"""Certificates in the emulator: the server's own CA, and reading what clients and devices send."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha1, sha256
from ipaddress import ip_address
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.pki.certread import UNREADABLE
from birthmark.testing.dps.answers import Problem, utc_stamp

__all__ = [
    "Held",
    "ServerIdentity",
    "certificate_info",
    "common_name",
    "names_of",
    "read_certificate",
    "read_held",
    "thumbprint_sha1",
]

_DAY = timedelta(days=1)
_MAX_CERTIFICATE = 16_384


class ServerIdentity:
    """A root made now and a server certificate under it; both keys live in this process only."""

    def __init__(self, hosts: Sequence[str], service: str = "DPS") -> None:
        root_key, self.key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        root = _name(f"Emulated {service} root")
        self.root = _sign(_builder(root, root, root_key.public_key(), now, ca=True), root_key, root_key)
        names = x509.SubjectAlternativeName([_general(host) for host in hosts])
        leaf = _builder(_name(f"Emulated {service}"), root, self.key.public_key(), now, ca=False)
        self.certificate = _sign(leaf.add_extension(names, critical=False), root_key, root_key)

    @property
    def root_pem(self) -> str:
        """The root that clients have to trust, PEM."""
        return self.root.public_bytes(Encoding.PEM).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, now: datetime, *, ca: bool) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 30 * _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: Any, issuer_key: Any) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return builder.add_extension(authority, critical=False).sign(key, hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate of an enrolment: what the API shows of it (JSON), and its DER where paths are built to it."""

    thumbprint: bytes
    info: bytes
    der: bytes = b""


def read_certificate(text: object) -> bytes:
    """Return the DER in ``text``: PEM, base64 of PEM, or base64 of DER. Anything else is ``Problem(400006)``."""
    return _read(text)[1]


def read_held(text: object, *, keep_der: bool) -> Held:
    """Return what is kept of the certificate in ``text`` (as ``read_certificate``), parsed once and never again."""
    certificate, der = _read(text)
    return Held(sha256(der).digest(), msgspec.json.encode(_info(certificate, der)), der if keep_der else b"")


def _read(text: object) -> tuple[x509.Certificate, bytes]:
    wrong = Problem(400006, "The certificate cannot be read.")
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_CERTIFICATE:
        raise wrong
    try:
        data = (
            text.encode()
            if text.lstrip().startswith("-----")
            else base64.b64decode("".join(text.split()), validate=True)
        )
        pem = data.lstrip().startswith(b"-----")
        certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        _ = certificate.subject, certificate.extensions
        return certificate, certificate.public_bytes(Encoding.DER)
    except (binascii.Error, UnicodeError, *UNREADABLE):
        raise wrong from None


def thumbprint_sha1(der: bytes) -> str:
    """Return the SHA-1 thumbprint that the service shows, upper-case hex."""
    return sha1(der, usedforsecurity=False).hexdigest().upper()


def common_name(der: bytes) -> str | None:
    """Return the only common name of a certificate, or None."""
    try:
        names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        return None
    return str(names[0].value) if len(names) == 1 else None


@lru_cache(maxsize=4096)
def names_of(der: bytes) -> tuple[bytes, bytes]:
    """Return subject and issuer of a certificate, as encoded."""
    certificate = x509.load_der_x509_certificate(der)
    return certificate.subject.public_bytes(), certificate.issuer.public_bytes()


@lru_cache(maxsize=4096)
def certificate_info(der: bytes) -> msgspec.Raw:
    """Return ``X509CertificateInfo`` of the service's API, as JSON."""
    return msgspec.Raw(msgspec.json.encode(_info(x509.load_der_x509_certificate(der), der)))


def _info(certificate: x509.Certificate, der: bytes) -> dict[str, Any]:
    return {
        "subjectName": certificate.subject.rfc4514_string(),
        "sha1Thumbprint": thumbprint_sha1(der),
        "sha256Thumbprint": sha256(der).hexdigest().upper(),
        "issuerName": certificate.issuer.rfc4514_string(),
        "notBeforeUtc": utc_stamp(certificate.not_valid_before_utc),
        "notAfterUtc": utc_stamp(certificate.not_valid_after_utc),
        "serialNumber": f"{certificate.serial_number:X}",
        "version": 3,
    }
