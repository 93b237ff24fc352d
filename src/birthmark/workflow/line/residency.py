"""Where the key lives: shown by the device itself before a certificate is asked for that says so."""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import Literal

from birthmark.errors import DeviceFault, Refused
from birthmark.pki.csr import parse_csr
from birthmark.ports import Attestation, Attests, Probe, Target
from birthmark.wire.receipt import AttestationPart

__all__ = ["NONCE_OCTETS", "Residency", "attestation_part", "attested", "require_residency", "spki_of_request"]

Residency = Literal["any", "attested"]
"""What a product asks for: ``attested`` means no certificate without a proof that the key cannot leave the device."""
NONCE_OCTETS = 32


def require_residency(residency: Residency, probe: Probe, *, device_serial: str, target: str) -> None:
    """Return if the target can show what the product asks for; else ``Refused("station.residency")``."""
    if residency == "attested" and not probe.attests:
        raise Refused(
            "station.residency",
            f"the product of {device_serial} asks for a key that shows where it lives, and this target cannot",
            hint="Use a target that attests, with the anchors of its maker (docs/targets.md).",
            device_serial=device_serial,
            target=target,
        )


def attested(target: Target, nonce: bytes, *, spki: bytes, device_serial: str) -> Attestation:
    """Let the device show where its key lives; ``DeviceFault("device.attestation.key")`` if it spoke of another key."""
    if not isinstance(target, Attests):
        raise TypeError("a target whose probe says that it attests has attest()")
    shown = target.attest(nonce)
    if shown.spki != spki:
        raise DeviceFault(
            "device.attestation.key",
            f"what device {device_serial} attested is another key than the one it asks with",
            hint="Take it off the line: somebody may have put a key of his own between device and station.",
            device_serial=device_serial,
            attested=sha256(shown.spki).hexdigest(),
            asked=sha256(spki).hexdigest(),
        )
    return shown


def spki_of_request(csr: bytes) -> bytes:
    """Return the public key (SPKI, DER) that a CSR of our own target speaks of, whichever named quirk it has."""
    return parse_csr(csr).spki


def attestation_part(shown: Attestation) -> AttestationPart:
    """Return an attestation as it stands in a receipt."""
    return AttestationPart(
        kind=shown.kind,
        anchor_sha256=shown.anchor.hex(),
        statement=base64.b64encode(shown.statement).decode(),
    )
