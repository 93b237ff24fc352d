"""A proof of possession in the form of a JSON Web Token (RFC 7515, RFC 7519), for devices that sign nothing else.

A cellular modem signs no octets of ours, but a token whose subject we name. The subject is the challenge and the
audience says what the token is for, so it can never be mistaken for one that gives access to something.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from birthmark.pki.algorithms import algorithm_of

__all__ = ["JWT_AUDIENCE", "MAX_JWT_OCTETS", "jwt_holds", "jwt_subject"]

JWT_AUDIENCE = "birthmark-proof-v1"
MAX_JWT_OCTETS = 2048
_FORM = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{86})")
_NUMBER = 32


def jwt_subject(challenge: bytes) -> str:
    """Return the claim ``sub`` for a challenge: lower-case hexadecimal."""
    return challenge.hex()


def jwt_holds(public_key: object, challenge: bytes, token: bytes) -> bool:
    """Say whether ``token`` (compact form, ES256, at most 2048 octets) is for ``challenge`` and by ``public_key``."""
    match = _FORM.fullmatch(token) if len(token) <= MAX_JWT_OCTETS else None
    if match is None or not isinstance(public_key, ec.EllipticCurvePublicKey):
        return False
    if not isinstance(public_key.curve, ec.SECP256R1):
        return False
    header, claims = _object(match[1]), _object(match[2])
    said = (header.get("alg"), claims.get("sub"), claims.get("aud"))
    if said != ("ES256", jwt_subject(challenge), JWT_AUDIENCE):
        return False
    raw = _decoded(match[3])
    numbers = (int.from_bytes(half, "big") for half in (raw[:_NUMBER], raw[_NUMBER:]))
    signed = token.rpartition(b".")[0]
    return algorithm_of(public_key).verify(public_key, encode_dss_signature(*numbers), signed)


def _object(part: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one for what is none."""
    try:
        found = msgspec.json.decode(_decoded(part))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _decoded(part: bytes) -> bytes:
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), b"-_", validate=True)
    except binascii.Error:
        return b""
