"""A chip vendor: its CAs, its chips and the manifests it signs, made with ``cryptography`` and ``json`` alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Chip", "ChipVendor", "b64url", "certify", "named", "self_signed"]

NOT_BEFORE = datetime(2024, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2054, 1, 1, tzinfo=UTC)


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def named(common_name: str, **more: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, more.get("o", "Chip Vendor Inc"))]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def certify(
    subject: x509.Name,
    key: Any,
    issuer: x509.Name,
    issuer_key: Any,
    *,
    ca: bool,
    not_after: datetime = NOT_AFTER,
    cert_serial: int | None = None,
    also: x509.GeneralName | None = None,
) -> x509.Certificate:
    """Sign a certificate as a vendor does: with what RFC 5280 asks of it. ``also``: a subject alternative name."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(cert_serial or x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )  # fmt: skip
    if also is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([also]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def self_signed(common_name: str, key: Any, *, ca: bool = False) -> x509.Certificate:
    """Return what ``openssl req -x509`` makes: the device's own word."""
    return certify(named(common_name), key.public_key(), named(common_name), key, ca=ca)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@dataclass(slots=True)
class Chip:
    """One chip with its key and certificate in it."""

    unique_id: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    above: list[x509.Certificate]

    @property
    def spki_sha256(self) -> bytes:
        from birthmark.pki.algorithms import spki_of

        return hashlib.sha256(spki_of(self.key.public_key())).digest()

    def put_into(self, directory: Path) -> Path:
        """Leave the identity in a directory as a unit with this chip would show it to the target ``files:``."""
        directory.mkdir(parents=True, exist_ok=True)
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        descriptor = os.open(directory / "device.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.above))
        (directory / "device.crt").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        (directory / "chain.pem").write_bytes(chain)
        return directory

    def payload(self, version: int = 3) -> dict[str, Any]:
        numbers = self.key.public_key().public_numbers()
        jwk = {
            "kid": "0",
            "kty": "EC",
            "crv": "P-256",
            "x": b64url(numbers.x.to_bytes(32, "big")),
            "y": b64url(numbers.y.to_bytes(32, "big")),
            "x5c": [base64.b64encode(der(one)).decode() for one in (self.certificate, *self.above)],
        }
        others = [{"kid": str(slot), "kty": "EC", "crv": "P-256", "x": jwk["x"], "y": jwk["y"]} for slot in (1, 2)]
        return {
            "version": version,
            "model": "ATECC608C",
            "partNumber": "ATECC608C-TFLXTLS",
            "manufacturer": {"organizationName": "Chip Vendor Inc"},
            "groupId": "359SCE55NV38H3CB",
            "provisioningTimestamp": "2024-01-15T17:22:45.000Z",
            "uniqueId": self.unique_id,
            "publicKeySet": {"keys": [jwk, *others]},
        }


@dataclass(slots=True)
class ChipVendor:
    """Root, a CA that signs chips, and the key that signs manifests."""

    name: str = "microchip"
    root_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ca_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    signer_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    root: x509.Certificate = field(init=False)
    ca: x509.Certificate = field(init=False)
    signer: x509.Certificate = field(init=False)
    made: int = 0

    def __post_init__(self) -> None:
        root = named("Vendor Root CA")
        self.root = certify(root, self.root_key.public_key(), root, self.root_key, ca=True)
        self.ca = certify(named("Vendor Signer F600"), self.ca_key.public_key(), root, self.root_key, ca=True)
        self.signer = certify(named("Manifest Signer"), self.signer_key.public_key(), root, self.root_key, ca=False)

    def chip(self, unique_id: str | None = None, key: Any = None) -> Chip:
        self.made += 1
        unique_id = unique_id or f"0123{self.made:012x}01"
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = certify(named(f"sn{unique_id}"), key.public_key(), self.ca.subject, self.ca_key, ca=False)
        return Chip(unique_id, key, certificate, [self.ca])

    def chips(self, count: int) -> list[Chip]:
        return [self.chip() for _ in range(count)]

    def element(self, payload: dict[str, Any], **changed: Any) -> dict[str, Any]:
        """Return a signed element. ``changed``: members of the protected header, or ``header_id``,
        ``key``, ``raw`` (octets in place of the payload)."""
        raw = changed.pop("raw", None)
        header_id, key = changed.pop("header_id", payload.get("uniqueId")), changed.pop("key", self.signer_key)
        ski = self.signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        protected = {
            "typ": "JWT",
            "alg": "ES256",
            "kid": b64url(ski),
            "x5t#S256": b64url(hashlib.sha256(der(self.signer)).digest()),
            **changed,
        }
        head = b64url(json.dumps(protected).encode())
        body = b64url(json.dumps(payload).encode() if raw is None else raw)
        r, s = decode_dss_signature(key.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
        signature = b64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return {"payload": body, "protected": head, "header": {"uniqueId": header_id}, "signature": signature}

    def manifest(self, path: Path, chips: Iterable[Chip], version: int = 3) -> Path:
        return self.write(path, (self.element(chip.payload(version)) for chip in chips))

    @staticmethod
    def write(path: Path, elements: Iterable[dict[str, Any]]) -> Path:
        with path.open("w") as file:
            file.write("[\n")
            for number, element in enumerate(elements):
                file.write((",\n" if number else "") + json.dumps(element, indent=1))
            file.write("\n]\n")
        return path

    def settle(self, workspace: Path, *, roots: bool = True) -> None:
        """Make this vendor known to a workspace: its certificates, and its table in the settings."""
        place = workspace / "vendors"
        place.mkdir(exist_ok=True)
        (place / f"{self.name}-roots.pem").write_bytes(self.root.public_bytes(Encoding.PEM))
        (place / f"{self.name}-signers.pem").write_bytes(self.signer.public_bytes(Encoding.PEM))
        table = [f"\n[vendors.{self.name}]", f'signers = "vendors/{self.name}-signers.pem"']
        table += [f'roots = "vendors/{self.name}-roots.pem"'] if roots else []
        with (workspace / "birthmark.toml").open("a") as file:
            file.write("\n".join(table) + "\n")
