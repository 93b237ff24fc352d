"""Devices and CAs for tests of the emulated DPS: certificates, files, and calls over HTTPS."""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.testing.dps import EmulatedDps
from support.dpsservice import dps_call

__all__ = ["VERSION", "Authority", "Device", "call", "group_of", "individual_of", "new_root", "register", "text_of"]

VERSION = "?api-version=2021-06-01"


@dataclass(frozen=True)
class Device:
    """A device's name, its certificate, and the files with chain and key."""

    name: str
    certificate: x509.Certificate
    directory: Path


@dataclass(frozen=True)
class Authority:
    """A CA whose key is in this process."""

    certificate: x509.Certificate
    key: Any
    above: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def sub(self, name: str) -> Authority:
        """Return a CA below this one."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(_ca(name, self.certificate.subject, key, self.key), key, (self.certificate, *self.above))

    def leaf(self, cn: str, key: Any, *, days: int = 1) -> x509.Certificate:
        """Return a certificate for ``cn``; a negative ``days`` is one that has ended."""
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            self.certificate.subject, _name(cn), key.public_key(), x509.random_serial_number()
        )
        window = builder.not_valid_before(now - timedelta(days=9)).not_valid_after(now + timedelta(days=days))
        return window.sign(self.key, hashes.SHA256())

    def device(self, directory: Path, cn: str, *, days: int = 1, chain: int | None = None) -> Device:
        """Return a device with its files; ``chain``: how many CAs it shows, all but the root if left out."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf, cas = self.leaf(cn, key, days=days), (self.certificate, *self.above)
        place = directory / f"{cn}-{os.urandom(3).hex()}"
        place.mkdir(parents=True)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(place / "key.pem", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(pem)
        shown = (leaf, *cas[: len(self.above) if chain is None else chain])
        (place / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in shown))
        return Device(cn, leaf, place)


def new_root(name: str = "Test root") -> Authority:
    """Return a self-signed CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(_ca(name, _name(name), key, key), key)


def _name(cn: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def _ca(name: str, issuer: x509.Name, key: Any, issuer_key: Any) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, _name(name), key.public_key(), x509.random_serial_number())
    window = builder.not_valid_before(now - timedelta(days=10)).not_valid_after(now + timedelta(days=10))
    return window.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        issuer_key, hashes.SHA256()
    )


def text_of(certificate: x509.Certificate) -> str:
    """Return a certificate as Microsoft's tools send it: base64 of PEM."""
    return b64encode(certificate.public_bytes(Encoding.PEM)).decode()


def group_of(name: str, ca: Authority, second: Authority | None = None, **more: Any) -> dict[str, Any]:
    """Return a group by its signing certificates."""
    slots = {"primary": {"certificate": ca.pem}}
    if second is not None:
        slots["secondary"] = {"certificate": second.pem}
    attestation = {"type": "x509", "x509": {"signingCertificates": slots}}
    return {"enrollmentGroupId": name, "attestation": attestation, **more}


def individual_of(
    name: str, primary: x509.Certificate, second: x509.Certificate | None = None, **more: Any
) -> dict[str, Any]:
    """Return an individual enrolment by one or two certificates."""
    slots = {"primary": {"certificate": text_of(primary)}}
    if second is not None:
        slots["secondary"] = {"certificate": text_of(second)}
    return {"registrationId": name, "attestation": {"type": "x509", "x509": {"clientCertificates": slots}}, **more}


def call(
    dps: EmulatedDps, method: str, path: str, body: Any = None, device: Device | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Make one call; return status, body and headers (lower case)."""
    return dps_call(dps, method, path, body, None if device is None else device.directory, **headers)


def register(dps: EmulatedDps, device: Device) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Send the registration of one device."""
    path = f"/{dps.id_scope}/registrations/{device.name}/register{VERSION}"
    return call(dps, "PUT", path, {"registrationId": device.name}, device)
