"""Receipts of stations: a signed note over canonical JSON, with the device's own proof (docs/formats/receipt.md)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from birthmark.adapters.audit.certificates import Fault, proves_possession
from birthmark.adapters.audit.logcheck import LogKey, open_signed, read_vkey
from birthmark.errors import BirthmarkError

__all__ = ["ReceiptCase", "receipt_fault"]

_PROOF_PREFIX = b"birthmark-proof-v1\0"
_CHALLENGED = ("origin", "station", "attempt", "device_serial", "cert_sha256", "nonce")


@dataclass(frozen=True, slots=True)
class ReceiptCase:
    """What the log says about a verified device. ``vkey`` is that of the station, None if it is not on record.

    ``service``: of an ``admitted`` entry, the kind of the cloud that its receipt has to name.
    """

    origin: str
    station: str
    attempt: str
    device_serial: str
    evidence: str
    receipt_sha256: str
    vkey: str | None
    certificate: bytes
    service: str | None = None


def receipt_fault(receipt: bytes, case: ReceiptCase) -> Fault | None:
    """Return what is wrong with a receipt, None for a good one."""
    if hashlib.sha256(receipt).hexdigest() != case.receipt_sha256:
        return "audit.receipt.hash", "the receipt does not have the hash in its event"
    if case.vkey is None:
        return "audit.receipt.signature", f"station {case.station} is not on record"
    try:
        key = read_vkey(case.vkey)
        text = open_signed(receipt, key)
    except BirthmarkError as problem:
        return "audit.receipt.signature", f"the receipt: {problem.message}"
    try:
        body = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return "audit.receipt.names", "the receipt is not an object"
    return _name_fault(body, case, key) or _proof_fault(body, case)


def _name_fault(body: dict[str, Any], case: ReceiptCase, key: LogKey) -> Fault | None:
    expected = {
        "format": "birthmark-receipt/1",
        "origin": case.origin,
        "station": case.station,
        "attempt": case.attempt,
        "device_serial": case.device_serial,
        "evidence": case.evidence,
        "cert_sha256": hashlib.sha256(case.certificate).hexdigest(),
    }
    for name, value in expected.items():
        if body.get(name) != value:
            return "audit.receipt.names", f"the receipt has another {name} than the log"
    cloud = body.get("cloud")
    if case.service is not None and (cloud.get("service") if isinstance(cloud, dict) else None) != case.service:
        return "audit.receipt.names", "the receipt does not say that this cloud let the device in"
    if key.name != f"{case.origin}/station/{case.station}":
        return "audit.receipt.signature", f"the receipt is signed by {key.name}"
    return None


def _proof_fault(body: dict[str, Any], case: ReceiptCase) -> Fault | None:
    """Check the challenge, and the signature of the device over it."""
    lines = ("birthmark-challenge/1", *(str(body.get(name)) for name in _CHALLENGED))
    challenge = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).digest()
    if body.get("challenge") != challenge.hex():
        return "audit.receipt.proof", "the challenge in the receipt was not made for this device"
    if case.evidence == "digest":
        return None
    try:
        signature = base64.b64decode(str(body.get("signature")), validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    message = _PROOF_PREFIX + challenge
    if case.evidence == "jwt":
        message, signature = _token_parts(signature, challenge)
    if not proves_possession(case.certificate, message, signature):
        return "audit.receipt.proof", "the device's signature in the receipt is wrong"
    return None


def _token_parts(token: bytes, challenge: bytes) -> tuple[bytes, bytes]:
    """Return what a JSON Web Token signs and its signature (DER); nothing where it is not for this challenge."""
    signed, _, last = token.rpartition(b".")
    try:
        header, claims = (msgspec.json.decode(_base64url(part)) for part in signed.split(b"."))
        fits = (header["alg"], claims["sub"], claims["aud"]) == ("ES256", challenge.hex(), "birthmark-proof-v1")
        raw = _base64url(last)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError):
        return b"", b""
    if not fits or len(raw) != 64:
        return b"", b""
    return signed, encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


def _base64url(part: bytes) -> bytes:
    return base64.b64decode(part + b"=" * (-len(part) % 4), b"-_", validate=True)
