"""What a modem says when it makes a key (``%KEYGEN``) and when it is asked who it is (``%ATTESTTOKEN``)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from birthmark.adapters.targets.nrf.cose import Sign1, read_item, read_sign1
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.csr import parse_csr

__all__ = ["CHALLENGE_OCTETS", "Keygen", "Token", "read_keygen", "read_token"]

CHALLENGE_OCTETS = 16
_IDENTITY_KEY = b"\x21"
"""The CBOR number -2, as an octet string in the header: the device's own identity key signed."""
_CSR_MESSAGE, _IDENTITY_MESSAGE = 9, 1
_PARTS = re.compile(r"([A-Za-z0-9_-]{1,4096})\.([A-Za-z0-9_-]{1,2048})")


@dataclass(frozen=True, slots=True)
class Keygen:
    """A key that was made. ``text``: as the modem sent it; ``csr``: DER; ``device``: the UUID of the modem."""

    text: str
    csr: bytes
    spki: bytes
    device: UUID
    sec_tag: int
    cose: Sign1


@dataclass(frozen=True, slots=True)
class Token:
    """Who the modem says it is. ``message`` is what ``cose`` signs, ``nonce`` the challenge it was given."""

    text: str
    message: bytes
    device: UUID
    nonce: bytes
    cose: Sign1


def read_keygen(text: str) -> Keygen:
    """Take ``CSR.COSE_Sign1`` apart (both base64url); the CSR is signed by its own key and has the digest in the COSE.

    ``DeviceFault("target.keygen.damaged")`` for anything else. The signature of the modem is not looked at here.
    """
    try:
        csr, cose = _parts(text)
        signed = read_sign1(cose)
        if signed.payload is None or signed.key_id != _IDENTITY_KEY:
            raise ValueError("no payload, or another key signed")
        item = read_item(signed.payload)
        if not isinstance(item, tuple) or len(item) != 5 or item[0] != _CSR_MESSAGE:
            raise ValueError("not the message of a CSR")
        _, uuid, sec_tag, digest, _ = item
        if digest != sha256(csr).digest():
            raise ValueError("the digest is of another CSR")
        tag = read_item(_octets(sec_tag))
        if not isinstance(tag, int):
            raise ValueError("the tag is no number")
        return Keygen(text, csr, parse_csr(csr).spki, UUID(bytes=_octets(uuid)), tag, signed)
    except (ValueError, Refused) as problem:
        raise DeviceFault(
            "target.keygen.damaged",
            f"what the modem says of its new key does not hold together: {str(problem)[:80]!a}",
            hint="Do not ship it; if it repeats with a good cable, the modem or its firmware is bad.",
        ) from problem


def read_token(text: str) -> Token:
    """Take ``message.COSE_Sign1`` apart; ``DeviceFault("target.token.damaged")``."""
    try:
        message, cose = _parts(text)
        signed = read_sign1(cose)
        if signed.payload is not None or signed.key_id != _IDENTITY_KEY:
            raise ValueError("it has a payload, or another key signed")
        item = read_item(message)
        if not isinstance(item, tuple) or len(item) != 5 or item[0] != _IDENTITY_MESSAGE:
            raise ValueError("not the message of an identity")
        return Token(text, message, UUID(bytes=_octets(item[1])), _octets(item[4]), signed)
    except ValueError as problem:
        raise DeviceFault(
            "target.token.damaged",
            f"the attestation token of the modem cannot be read: {str(problem)[:80]!a}",
            hint="Do not ship it; if it repeats with a good cable, the modem or its firmware is bad.",
        ) from problem


def _parts(text: str) -> tuple[bytes, bytes]:
    match = _PARTS.fullmatch(text)
    if match is None:
        raise ValueError("not two parts in base64url")
    return _decoded(match[1]), _decoded(match[2])


def _decoded(part: str) -> bytes:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True)
    except binascii.Error:
        raise ValueError("base64url") from None
    return data


def _octets(item: object) -> bytes:
    if not isinstance(item, bytes):
        raise ValueError("a part is not octets")
    return item
