"""What a certificate must be that nobody here made and that a device is to keep."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from birthmark.errors import Refused
from birthmark.model.records import PreloadRecord
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.pki.keycheck import check_public_key
from birthmark.pki.sigcheck import SIGNATURES, verify_signature

__all__ = ["check_foreign"]


def check_foreign(certificate: bytes, preloaded: PreloadRecord | None, *, device_serial: str, now: datetime) -> None:
    """Return if a device may keep this certificate (DER); its chain is not ours to judge.

    Raises ``Refused``: ``adopt.preloaded`` (its vendor's manifest is on record), ``adopt.validity``,
    ``adopt.signature`` (it says that it signed itself, and did not), ``adopt.ca`` (somebody else made it a CA),
    ``key.weak.*``.
    """
    parts = open_parts(certificate)
    parsed = parse_certificate(parts)
    check_public_key(parts.spki)
    if preloaded is not None:
        raise Refused(
            "adopt.preloaded",
            f"the identity in device {device_serial} was preloaded by {preloaded.vendor}",
            hint="Order it with key origin preloaded and use `birthmark station bind`.",
            device_serial=device_serial,
            vendor=preloaded.vendor,
            unique_id=preloaded.unique_id,
        )
    if not parsed.not_valid_before_utc <= now <= parsed.not_valid_after_utc:
        raise Refused(
            "adopt.validity",
            f"the certificate of device {device_serial} is valid {parsed.not_valid_before_utc:%F} to "
            f"{parsed.not_valid_after_utc:%F}, not now",
            hint="Let the device get a new certificate; check the clock of this machine.",
            device_serial=device_serial,
        )
    if parts.subject.whole == parts.issuer.whole:
        kind = SIGNATURES.get(parts.algorithm)
        if kind is None or not verify_signature(kind, parts.spki, parts.signature, parts.tbs):
            raise Refused(
                "adopt.signature",
                f"the certificate of device {device_serial} says that it signed itself, and it did not",
                hint="Take it off the line and find out who made this certificate.",
                device_serial=device_serial,
            )
    elif _is_ca(parsed):
        raise Refused(
            "adopt.ca",
            f"the certificate of device {device_serial} is one of a CA",
            hint="A device that can sign certificates is no device: have it made again without cA TRUE.",
            device_serial=device_serial,
        )


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
