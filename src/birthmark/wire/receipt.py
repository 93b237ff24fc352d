"""Receipts: what a station states about one device, signed, so that anybody can check it (docs/formats/receipt.md).

A receipt is a C2SP signed note over one line of canonical JSON. It holds the device's own signature over a challenge
that names station, attempt, device and certificate: a receipt cannot be made for a device that was not there.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import BirthmarkError, Refused, Tampered
from birthmark.model.preloadevents import KeyOrigin
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.tlog.note import decode_base64, open_note, parse_vkey, sign_note
from birthmark.wire.jwtproof import jwt_holds

__all__ = [
    "PROOF_PREFIX",
    "RECEIPT_FORMAT",
    "AttestationPart",
    "CloudPart",
    "Handshake",
    "Receipt",
    "Step",
    "challenge_of",
    "cloud_in",
    "encode_signature",
    "evidence_holds",
    "open_receipt",
    "sign_receipt",
    "station_key_name",
    "verify_evidence",
]

RECEIPT_FORMAT: Final = "birthmark-receipt/1"
PROOF_PREFIX = b"birthmark-proof-v1\0"
"""Stands before the challenge in what the device signs: it can never be something else the key might sign."""
_CHALLENGE_CONTEXT = "birthmark-challenge/1"

_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Moment = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Step(_Part, frozen=True, kw_only=True):
    """One step of an attempt and how many milliseconds it took."""

    name: _Text
    ms: Annotated[float, msgspec.Meta(ge=0)]


class Handshake(_Part, frozen=True, kw_only=True):
    """A mutual-TLS connection of this device, as its *server* saw it."""

    peer_cert_sha256: _Digest
    tls_version: _Text
    cipher: _Text


class AttestationPart(_Part, frozen=True, kw_only=True):
    """What showed where the key lives, before a certificate was asked for. ``statement``: standard base64."""

    kind: _Text
    anchor_sha256: _Digest
    statement: Annotated[str, msgspec.Meta(max_length=22_000)]


class CloudPart(_Part, frozen=True, kw_only=True):
    """A cloud let this device in. ``service``: kind of the cloud; ``host``, ``scope``: where the device knocked.

    ``assigned_to``, ``device_name``: where it belongs from now on, and its name there. ``key``: whose key made the
    connection, the ``device``'s or the copy that the ``station`` held until it was installed.
    """

    service: _Text
    host: _Text
    scope: Annotated[str, msgspec.Meta(max_length=1024)]
    assigned_to: _Text
    device_name: _Text
    key: Literal["device", "station"]
    at: _Moment


class Receipt(_Part, frozen=True, kw_only=True):
    """The statement. ``signature``: standard base64, of the token for ``jwt``; null where ``evidence`` is ``digest``.

    ``challenge`` is ``challenge_of`` the other members; ``key_digest`` is SHA-256 of the private key (PKCS#8 DER) that
    the device reports where its key cannot sign. ``attestation`` is left out where nothing was attested, ``cloud``
    where the device was not let into one.
    """

    format: Literal["birthmark-receipt/1"] = "birthmark-receipt/1"
    origin: _Text
    station: _Text
    attempt: _Text
    device_serial: _Text
    target: _Text
    cert_sha256: _Digest
    spki_sha256: _Digest
    key_origin: KeyOrigin
    evidence: Literal["signature", "digest", "jwt"]
    nonce: _Digest
    challenge: _Digest
    signature: Annotated[str, msgspec.Meta(max_length=8192)] | None
    key_digest: _Digest | None
    started_at: _Moment
    finished_at: _Moment
    steps: tuple[Step, ...]
    software: _Text
    handshake: Handshake | None
    attestation: AttestationPart | msgspec.UnsetType = msgspec.UNSET
    cloud: CloudPart | msgspec.UnsetType = msgspec.UNSET


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Receipt)


def station_key_name(origin: str, station: str) -> str:
    """Return the name of a station's note key."""
    return f"{origin}/station/{station}"


def challenge_of(*, origin: str, station: str, attempt: str, device_serial: str, cert_sha256: str, nonce: str) -> bytes:
    """Return the 32 octets a device is challenged with: SHA-256 over what the proof is for, one member a line."""
    lines = (_CHALLENGE_CONTEXT, origin, station, attempt, device_serial, cert_sha256, nonce)
    return sha256("".join(f"{line}\n" for line in lines).encode()).digest()


def sign_receipt(receipt: Receipt, station_key: Ed25519PrivateKey, name: str) -> bytes:
    """Return the receipt as a note signed by the key ``name`` (see ``station_key_name``)."""
    text = _encoder.encode(receipt).decode() + "\n"
    return sign_note(text, name, station_key).encode()


def open_receipt(data: bytes, vkey: str) -> Receipt:
    """Return the receipt that the station with verifier key ``vkey`` signed.

    Raises ``Tampered``: ``receipt.signature`` (not signed by that key), ``receipt.malformed``,
    ``receipt.station`` (the key is of another station), ``receipt.challenge`` (not made for this device and attempt).
    """
    verifier = parse_vkey(vkey)
    try:
        text, _ = open_note(data, [verifier])
    except Tampered as problem:
        raise _bad_note(problem) from None
    try:
        receipt = _decoder.decode(text)
    except msgspec.MsgspecError as problem:
        raise _malformed(str(problem)) from None
    if _encoder.encode(receipt).decode() + "\n" != text:
        raise _malformed("it is not in canonical form")
    if verifier.name != station_key_name(receipt.origin, receipt.station):
        raise Tampered(
            "receipt.station",
            f"a receipt of station {receipt.station} is signed by {verifier.name}",
            hint="Ask who holds that key: one station speaks in the name of another.",
            station=receipt.station,
            key_name=verifier.name,
        )
    _check_challenge(receipt)
    return receipt


def cloud_in(data: bytes) -> CloudPart | None:
    """Return where a receipt on record says that its device was let in, None if nowhere. Nothing is checked here."""
    text, lf, _ = data.partition(b"\n")
    if b'"cloud":{' not in text:
        return None
    try:
        cloud = _decoder.decode(text).cloud
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return None if not lf or isinstance(cloud, msgspec.UnsetType) else cloud


def verify_evidence(receipt: Receipt, certificate: bytes) -> None:
    """Return if the receipt is about ``certificate`` (DER) and the device's own signature in it holds.

    Raises ``Tampered``: ``receipt.certificate``, ``receipt.challenge``, ``receipt.evidence``.
    """
    if sha256(certificate).hexdigest() != receipt.cert_sha256:
        raise _foreign("the certificate is another one", receipt)
    public_key = _public_key(certificate, receipt)
    if sha256(spki_of(public_key)).hexdigest() != receipt.spki_sha256:
        raise _foreign("the certificate holds another key", receipt)
    _check_challenge(receipt)
    if receipt.evidence == "digest":
        if receipt.signature is not None or receipt.key_digest is None:
            raise _bad_evidence("it is of kind digest and holds none, or a signature too", receipt)
        return
    signature = decode_base64(receipt.signature or "")
    holds = jwt_holds if receipt.evidence == "jwt" else evidence_holds
    if not signature or not holds(public_key, bytes.fromhex(receipt.challenge), signature):
        raise _bad_evidence("the device's signature does not fit the challenge", receipt)


def evidence_holds(public_key: object, challenge: bytes, signature: bytes) -> bool:
    """Say whether ``signature`` is one over the proof message of ``challenge``."""
    return algorithm_of(public_key).verify(public_key, signature, PROOF_PREFIX + challenge)


def encode_signature(signature: bytes | None) -> str | None:
    """Return a signature as it stands in a receipt."""
    return None if signature is None else base64.b64encode(signature).decode()


def _check_challenge(receipt: Receipt) -> None:
    expected = challenge_of(
        origin=receipt.origin,
        station=receipt.station,
        attempt=receipt.attempt,
        device_serial=receipt.device_serial,
        cert_sha256=receipt.cert_sha256,
        nonce=receipt.nonce,
    )
    if expected.hex() != receipt.challenge:
        raise Tampered(
            "receipt.challenge",
            f"the challenge in the receipt of {receipt.device_serial} was not made for it",
            hint="The proof was made for something else: find out how it came into this receipt.",
            device_serial=receipt.device_serial,
        )


def _public_key(certificate: bytes, receipt: Receipt) -> object:
    load: Callable[[bytes], x509.Certificate] = x509.load_der_x509_certificate
    try:
        public_key = load(certificate).public_key()
        algorithm_of(public_key)
    except (*UNREADABLE, UnsupportedAlgorithm, Refused):
        raise _foreign("the certificate cannot be read", receipt) from None
    return public_key


def _foreign(reason: str, receipt: Receipt) -> Tampered:
    return Tampered(
        "receipt.certificate",
        f"the receipt of {receipt.device_serial} is not about this certificate: {reason}",
        hint="Take the certificate from the log entry of this device.",
        device_serial=receipt.device_serial,
    )


def _bad_evidence(reason: str, receipt: Receipt) -> Tampered:
    return Tampered(
        "receipt.evidence",
        f"the receipt of {receipt.device_serial} proves nothing: {reason}",
        hint="Do not ship this device; prove it again at a station.",
        device_serial=receipt.device_serial,
    )


def _bad_note(problem: BirthmarkError) -> Tampered:
    return Tampered(
        "receipt.signature",
        f"the receipt is not signed by this station: {problem.message}",
        hint="Take the station's verifier key from the log, and the receipt from its log entry.",
        cause=problem.code,
    )


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "receipt.malformed",
        f"this is not a receipt: {reason}",
        hint="Take the receipt from its log entry, unchanged.",
        reason=reason[:200],
    )
