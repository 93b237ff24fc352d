"""What every local source does alike: read a certificate from the log, refuse on record, name what is in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cryptography import x509

from birthmark.errors import Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Issued, Received, Rejected, decode_entry, utc_text
from birthmark.model.ids import parse_attempt_id, parse_device_serial, parse_station_id
from birthmark.model.records import DeviceRecord, IntentRecord
from birthmark.ports import Clock, CredentialRequest, Ledger, Records

__all__ = [
    "RECORD_OCTETS",
    "REQUEST_OCTETS",
    "ChainOf",
    "cert_serial_of",
    "check_ids",
    "known_device",
    "not_available",
    "record_of",
    "recording_refusals",
    "reused_attempt",
    "stored_certificate",
    "unknown_device",
]

ChainOf = Callable[[str], tuple[bytes, ...]]
"""CA name → its certificates (DER), the CA first, its root last."""
RECORD_OCTETS, REQUEST_OCTETS = 72, 64
_RANDOM, _HASH = 8, 32


def check_ids(request: CredentialRequest) -> None:
    """Return if the names in a request are names; such a request is refused without a record."""
    parse_attempt_id(request.attempt)
    parse_station_id(request.station)
    parse_device_serial(request.device_serial)


@contextmanager
def recording_refusals(ledger: Ledger, request: CredentialRequest, *, clock: Clock) -> Iterator[None]:
    """Put every refusal inside on record, in a transaction of its own, before it is told."""
    try:
        yield
    except Refused as refusal:
        event = Rejected(
            at=utc_text(clock()),
            station=request.station,
            code=refusal.code,
            device=request.device_serial,
            attempt=request.attempt,
        )
        with ledger.transaction() as tx:
            tx.append(event)
        raise


def known_device(records: Records, device_serial: str) -> DeviceRecord:
    """Return the device; ``Refused("device.unknown")`` if no order contains it."""
    device = records.device(device_serial)
    if device is None:
        raise unknown_device(device_serial)
    return device


def unknown_device(device_serial: str) -> Refused:
    """Return the refusal of a device that no order contains."""
    return Refused(
        "device.unknown",
        f"no order contains device {device_serial[:80]}",
        hint="Check the scanned serial; if it is right, add it with `birthmark order create`.",
        device_serial=device_serial[:80],
    )


def record_of(intent: IntentRecord, position: int) -> tuple[bytes, bytes, bytes]:
    """Return certificate serial, SPKI SHA-256 and TBS SHA-256 of one certificate of an intent.

    Where somebody else signs, the serial is empty (see ``cert_serial_of``) and the last is the request's SHA-256.
    """
    if intent.serial_prefix is None:
        request = intent.records[position * REQUEST_OCTETS : (position + 1) * REQUEST_OCTETS]
        return b"", request[:_HASH], request[_HASH:]
    record = intent.records[position * RECORD_OCTETS : (position + 1) * RECORD_OCTETS]
    random, rest = record[:_RANDOM], record[_RANDOM:]
    return intent.serial_prefix + random, rest[:_HASH], rest[_HASH:]


def cert_serial_of(ledger: Ledger, intent: IntentRecord, device: DeviceRecord) -> bytes:
    """Return the certificate serial of a device that has one, by whomever it was signed."""
    if intent.serial_prefix is not None and device.position is not None:
        return record_of(intent, device.position)[0]
    number = x509.load_der_x509_certificate(stored_certificate(ledger, device)).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")


def stored_certificate(ledger: Ledger, device: DeviceRecord) -> bytes:
    """Return the certificate (DER) on record; ``Tampered("log.issued.missing")`` if its entry is not the one."""
    seq = -1 if device.issued_seq is None else device.issued_seq
    for _, entry in ledger.entries(seq, 1) if seq >= 0 else ():
        event, certificate = decode_entry(entry)
        if (
            isinstance(event, Issued | Received)
            and event.device == device.device_serial
            and event.intent == device.intent
        ):
            return certificate
    raise Tampered(
        "log.issued.missing",
        f"log entry {seq} is not the certificate of {device.device_serial}",
        hint="Stop and run `birthmark audit verify`.",
        device_serial=device.device_serial,
        seq=seq,
    )


def reused_attempt(request: CredentialRequest, used_for: str) -> Refused:
    """Return the refusal of an attempt id that stands for something else."""
    return Refused(
        "attempt.reused",
        f"attempt {request.attempt} was used before, with other content",
        hint="Make a new attempt id for every device and every new try.",
        attempt=request.attempt,
        device_serial=request.device_serial,
        used_for=used_for,
    )


def not_available(device: DeviceRecord) -> Refused | None:
    """Return the refusal for a device that is at its end or failed, None for any other."""
    if device.state is DeviceState.SCRAPPED:
        return Refused(
            "device.scrapped",
            f"device {device.device_serial} is scrapped",
            hint="Take the unit off the line; its serial gets no identity again.",
            device_serial=device.device_serial,
        )
    if device.state is DeviceState.FAILED:
        return Refused(
            "device.failed",
            f"device {device.device_serial} failed before; its identity is not used again",
            hint="Run `birthmark device rework` with a reason; it gets a new identity.",
            device_serial=device.device_serial,
        )
    return None
