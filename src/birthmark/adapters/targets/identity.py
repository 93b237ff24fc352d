"""A key, its certificate and the chain, taken from a credential and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from birthmark.errors import DeviceFault, Refused, Tampered
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import Credential

__all__ = [
    "CHAIN_LENGTHS",
    "MAX_CHAIN",
    "Certificates",
    "certificates_of",
    "key_not_made",
    "mismatch",
    "pkcs8_of",
    "read_pem_certificates",
    "refuse_key",
    "require_key",
]

CHAIN_LENGTHS: dict[str, int | None] = {"full": None, "issuing": 1}
"""Value of the option ``chain`` → how many certificates of the credential's chain are installed."""

MAX_CHAIN = 8
"""Certificates above the device certificate that a target can hold."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What is installed besides the key. ``spki``: DER SubjectPublicKeyInfo of the device certificate."""

    device: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    spki: bytes

    @property
    def device_der(self) -> bytes:
        return self.device.public_bytes(Encoding.DER)

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in self.chain)


def certificates_of(credential: Credential, *, chain: str) -> Certificates:
    """Read the credential's certificates; ``Tampered("credential.malformed")`` if they are none."""
    wanted = credential.chain[: CHAIN_LENGTHS[chain]]
    try:
        if not 0 < len(wanted) <= MAX_CHAIN:
            raise ValueError("chain length")
        device = x509.load_der_x509_certificate(credential.certificate)
        spki = spki_of(device.public_key())
        issuers = tuple(x509.load_der_x509_certificate(der) for der in wanted)
    except (*UNREADABLE, UnsupportedAlgorithm):
        raise _malformed(credential) from None
    return Certificates(device, issuers, spki)


def read_pem_certificates(content: bytes) -> tuple[bytes, ...]:
    """Return the certificates (DER) that a device shows as PEM, its own first; none if they cannot be read."""
    try:
        found = x509.load_pem_x509_certificates(content)
    except UNREADABLE:
        return ()
    return tuple(one.public_bytes(Encoding.DER) for one in found)


def require_key(credential: Credential, certificates: Certificates) -> Any:
    """Return the private key that comes with the credential: ``Refused`` if there is none, ``Tampered`` if foreign."""
    if credential.private_key is None:
        raise Refused(
            "target.key.required",
            f"the credential of {credential.device_serial} has no private key and this target makes none",
            hint="Use a target with key=born, or an order whose keys are injected.",
            device_serial=credential.device_serial,
        )
    key = _load_key(credential, credential.private_key)
    if spki_of(key.public_key()) != certificates.spki:
        raise Tampered(
            "credential.key.mismatch",
            f"the private key sent for {credential.device_serial} does not belong to its certificate",
            hint="Stop the line and verify the pool with `birthmark audit verify`.",
            device_serial=credential.device_serial,
        )
    return key


def pkcs8_of(credential: Credential, certificates: Certificates) -> bytes:
    """Return the private key as it came (PKCS#8 DER), checked as by ``require_key``: a device digests these octets."""
    require_key(credential, certificates)
    return b"" if credential.private_key is None else credential.private_key.reveal()


def refuse_key(credential: Credential) -> None:
    """Refuse a credential that brings a private key to a target that makes its own."""
    if credential.private_key is not None:
        raise Refused(
            "target.key.not_accepted",
            f"the key of {credential.device_serial} was made outside, and this target takes only its own",
            hint="Use an order whose keys are born in the device, or a target that accepts keys.",
            device_serial=credential.device_serial,
        )


def key_not_made(target: str, *, hint: str = "Use an order whose keys are injected.") -> Refused:
    """Return the error of a target that makes no key, as it stands."""
    return Refused("target.key.not_made", f"{target} takes a key that was made before", hint=hint, target=target)


def mismatch(target: str, what: str) -> DeviceFault:
    """Return the fault of a device whose key and certificate are not a pair."""
    return DeviceFault(
        "target.key.mismatch",
        f"{what} in {target} is not the one its certificate names",
        hint="Provision the device again as rework, with a new identity.",
        target=target,
    )


def _load_key(credential: Credential, secret: Secret) -> Any:
    try:
        return load_der_private_key(secret.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _malformed(credential) from None


def _malformed(credential: Credential) -> Tampered:
    return Tampered(
        "credential.malformed",
        f"the credential of {credential.device_serial} cannot be read",
        hint="Stop the line and verify the pool with `birthmark audit verify`.",
        device_serial=credential.device_serial,
    )
