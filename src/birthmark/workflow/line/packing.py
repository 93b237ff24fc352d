"""Before a unit is packed: the label on it, the device in it and the record of both have to be of one and the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from birthmark.errors import DeviceFault, Refused
from birthmark.model.device import DeviceState
from birthmark.model.events import Rejected, utc_text
from birthmark.model.ids import parse_device_serial
from birthmark.ports import Target
from birthmark.wire.label import Label, label_of, parse_label
from birthmark.wire.receipt import challenge_of
from birthmark.workflow.handout import known_device, stored_certificate
from birthmark.workflow.line.readback import check_evidence
from birthmark.workflow.line.stationpost import StationPost

__all__ = ["PackedUnit", "check_label", "label_for"]

_NONCE_OCTETS = 32


@dataclass(frozen=True, slots=True)
class PackedUnit:
    """A unit whose label fits. ``evidence``: how the device showed its key, None where it cannot sign."""

    device_serial: str
    cert_sha256: str
    evidence: str | None


def label_for(post: StationPost, device_serial: str) -> Label:
    """Return the label of a verified device; ``Refused("label.not_verified")`` for any other."""
    return label_of(device_serial, _verified(post, parse_device_serial(device_serial)))


def check_label(post: StationPost, scanned: str, open_target: Callable[[str], Target]) -> PackedUnit:
    """Return if the label that was scanned is that of the unit in the fixture, and of a verified device on record.

    ``open_target`` gives the target for a device serial. Nothing is written to the device; a label that does not fit
    goes on record. Raises ``Refused``: ``label.malformed``, ``label.not_verified``; ``DeviceFault``: ``label.unit``,
    ``label.certificate``, ``label.record``, and what ``check_evidence`` raises.
    """
    label = parse_label(scanned)
    try:
        return _checked(post, label, open_target(label.device_serial))
    except (Refused, DeviceFault) as fault:
        event = Rejected(at=utc_text(post.clock()), station=post.name, code=fault.code, device=label.device_serial)
        with post.ledger.transaction() as tx:
            tx.append(event)
        raise


def _checked(post: StationPost, label: Label, target: Target) -> PackedUnit:
    serial = label.device_serial
    certificate = _verified(post, serial)
    if not label.fits(certificate):
        raise DeviceFault(
            "label.record",
            f"the label was made for another certificate than the one that {serial} was given",
            hint="Print the label again; the device was reworked since, or the label is of another workspace.",
            device_serial=serial,
            label=label.fingerprint,
        )
    probe = target.probe()
    if probe.identity != serial:
        raise DeviceFault(
            "label.unit",
            f"the label says {serial}, the unit is {probe.identity[:80]!a}",
            hint="Do not pack it: find the label of this unit and the unit of this label.",
            device_serial=serial,
            found=ascii(probe.identity[:80]),
        )
    if probe.certificate != certificate:
        raise DeviceFault(
            "label.certificate",
            f"the unit {serial} does not hold the certificate that is on record for it",
            hint="Do not pack it; run `birthmark device rework` with a reason and provision it again.",
            device_serial=serial,
            issued=sha256(certificate).hexdigest(),
        )
    evidence = _proved(post, serial, certificate, target) if probe.can_sign else None
    return PackedUnit(serial, sha256(certificate).hexdigest(), evidence)


def _proved(post: StationPost, serial: str, certificate: bytes, target: Target) -> str:
    device = known_device(post.records, serial)
    order = post.records.order(device.order)
    chain = post.chain_of("" if order is None else order.ca)
    challenge = challenge_of(
        origin=post.origin,
        station=post.name,
        attempt=device.attempt or "",
        device_serial=serial,
        cert_sha256=sha256(certificate).hexdigest(),
        nonce=post.entropy(_NONCE_OCTETS).hex(),
    )
    evidence = target.prove(challenge)
    check_evidence(
        evidence,
        device_serial=serial,
        certificate=certificate,
        chain=chain,
        challenge=challenge,
        private_key=None,
        now=post.clock(),
    )
    return evidence.kind


def _verified(post: StationPost, serial: str) -> bytes:
    """Return the certificate (DER) of a device that passed the line."""
    device = known_device(post.records, serial)
    if device.state is not DeviceState.VERIFIED:
        raise Refused(
            "label.not_verified",
            f"device {serial} is {device.state}; only a verified device gets a label and is packed",
            hint="Run `birthmark station provision` for it first.",
            device_serial=serial,
            state=str(device.state),
        )
    return stored_certificate(post.ledger, device)
