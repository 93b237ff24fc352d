"""What a station states about a device in the end: its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from msgspec import UNSET

from birthmark.model.events import KeyOrigin, utc_text
from birthmark.ports import Attestation, Evidence
from birthmark.wire.receipt import (
    CloudPart,
    Handshake,
    Receipt,
    Step,
    encode_signature,
    sign_receipt,
    station_key_name,
)
from birthmark.workflow.line.readback import spki_hash_of
from birthmark.workflow.line.residency import attestation_part
from birthmark.workflow.line.stationpost import Admitted, StationPost

__all__ = ["Proof", "make_receipt"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What was read back from the device, and the challenge it answered."""

    nonce: str
    challenge: bytes
    evidence: Evidence
    handshake: Handshake | None
    admitted: Admitted | None = None


def make_receipt(
    post: StationPost,
    proof: Proof,
    *,
    attempt: str,
    device_serial: str,
    target: str,
    certificate: bytes,
    key_origin: KeyOrigin,
    started: datetime,
    steps: Sequence[tuple[str, float]],
    attestation: Attestation | None,
) -> bytes:
    """Return the receipt, signed by the station (docs/formats/receipt.md). ``certificate`` (DER) was read back."""
    key_digest = proof.evidence.key_digest
    receipt = Receipt(
        origin=post.origin,
        station=post.name,
        attempt=attempt,
        device_serial=device_serial,
        target=target,
        cert_sha256=sha256(certificate).hexdigest(),
        spki_sha256=spki_hash_of(certificate).hex(),
        key_origin=key_origin,
        evidence=proof.evidence.kind,
        nonce=proof.nonce,
        challenge=proof.challenge.hex(),
        signature=encode_signature(proof.evidence.signature),
        key_digest=None if key_digest is None else key_digest.hex(),
        started_at=utc_text(started),
        finished_at=utc_text(post.clock()),
        steps=tuple(Step(name=name, ms=ms) for name, ms in steps),
        software=post.software,
        handshake=proof.handshake,
        attestation=UNSET if attestation is None else attestation_part(attestation),
        cloud=UNSET if proof.admitted is None else _cloud_part(proof.admitted),
    )
    return sign_receipt(receipt, post.receipt_key, station_key_name(post.origin, post.name))


def _cloud_part(admitted: Admitted) -> CloudPart:
    admission = admitted.admission
    return CloudPart(
        service=admission.service,
        host=admission.host,
        scope=admission.scope,
        assigned_to=admission.assigned_to,
        device_name=admission.device_name,
        key=admission.held_by,
        at=utc_text(admitted.at),
    )
