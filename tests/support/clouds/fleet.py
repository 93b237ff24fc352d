"""A root, issuing CAs and issued devices, made with the builders of ``cryptography``, as clouds are told of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from birthmark.ports.cloud import CloudAuthority, Registration, Standing

__all__ = ["Fleet"]

_HOUR = timedelta(hours=1)


class Fleet:
    """One root; as many issuing CAs as are asked for; devices of each. ``keys``: device serial → key of its newest
    certificate; ``proofs``: each (CA, code) that was proven."""

    def __init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = _certificate("Fleet Root", self._root_key.public_key(), "Fleet Root", self._root_key, ca=True)
        self._issuing: dict[str, tuple[x509.Certificate, Any]] = {}
        self._renewed: dict[str, x509.Certificate] = {}
        self.keys: dict[str, Any] = {}
        self.proofs: list[tuple[str, str]] = []

    def issuing(self, name: str = "issuing") -> tuple[x509.Certificate, Any]:
        """Return certificate and key of an issuing CA, made when it is first asked for."""
        if name not in self._issuing:
            key = ec.generate_private_key(ec.SECP256R1())
            made = _certificate(f"Fleet {name}", key.public_key(), "Fleet Root", self._root_key, ca=True)
            self._issuing[name] = made, key
        return self._issuing[name]

    def chain(self, name: str = "issuing") -> tuple[bytes, ...]:
        return _der(self.issuing(name)[0]), _der(self.root)

    def authority(self, name: str = "issuing", *, renewed: bool = False) -> CloudAuthority:
        """Return an issuing CA as a cloud is told of it; ``renewed``: with a second certificate of the same key."""
        made, key = self.issuing(name)
        own = [made]
        if renewed:
            if name not in self._renewed:
                again = _certificate(f"Fleet {name}", key.public_key(), "Fleet Root", self._root_key, ca=True)
                self._renewed[name] = again
            own.append(self._renewed[name])
        return CloudAuthority(name, tuple(_der(one) for one in own), (_der(self.root),))

    def prove(self, name: str, code: str) -> bytes:
        """Implements ``ProvePossession``."""
        issuer, key = self.issuing(name)
        self.proofs.append((name, code))
        own = ec.generate_private_key(ec.SECP256R1())
        return _der(_certificate(code, own.public_key(), issuer.subject, key, ca=False))

    def certificate(self, device_serial: str, ca: str = "issuing") -> bytes:
        """Issue one to a new key of the device."""
        issuer, issuer_key = self.issuing(ca)
        key = self.keys[device_serial] = ec.generate_private_key(ec.SECP256R1())
        return _der(_certificate(device_serial, key.public_key(), issuer.subject, issuer_key, ca=False))

    def registration(
        self, device_serial: str, standing: Standing = "enabled", *, certificates: int = 1, ca: str = "issuing"
    ) -> Registration:
        """Return a device with 0, 1 or 2 certificates of its own, each of another key."""
        own = tuple(self.certificate(device_serial, ca) for _ in range(certificates))
        return Registration(device_serial, standing, own, self.chain(ca) if own else ())


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _certificate(
    subject: str, public_key: Any, issuer: str | x509.Name, issuer_key: Any, *, ca: bool
) -> x509.Certificate:
    now = datetime.now(UTC).replace(microsecond=0)
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    by = issuer_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer if isinstance(issuer, x509.Name) else _name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _HOUR)
        .not_valid_after(now + (87_600 if ca else 43_800) * _HOUR)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by), critical=False)
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
