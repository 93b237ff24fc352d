"""c2sp.org/tlog-cosignature, Ed25519 (cosignature/v1, key type 0x04): a witness states what it saw of a log, and when.

The signed message is ``cosignature/v1``, ``time <seconds since 1970>`` and the body of the checkpoint; in the note the
timestamp (8 octets, big endian) stands before the signature (64 octets).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from birthmark.errors import Misconfigured, Refused, Tampered
from birthmark.tlog.note import (
    decode_base64,
    encode_vkey,
    is_key_name,
    key_id,
    parse_signature,
    public_octets,
    split_note,
)

__all__ = [
    "COSIGNATURE_OCTETS",
    "COSIGNATURE_V1",
    "Cosignature",
    "CosignerKey",
    "cosign",
    "cosigned_message",
    "encode_cosigner",
    "open_cosignatures",
    "parse_cosigner",
]

COSIGNATURE_V1 = 0x04
_TIME_OCTETS = 8
COSIGNATURE_OCTETS = _TIME_OCTETS + 64
_LATEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class CosignerKey:
    """A witness: its name and its Ed25519 public key (32 octets)."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 octets that stand before its cosignatures."""
        return key_id(self.name, COSIGNATURE_V1, self.public)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature. ``timestamp``: seconds since 1970, by the clock of the witness."""

    key: CosignerKey
    timestamp: int


def encode_cosigner(name: str, public: bytes) -> str:
    """Return the verifier key of a witness; ``Refused("log.key.name")`` for a name that names no key."""
    encode_vkey(name, public)
    body = base64.b64encode(bytes((COSIGNATURE_V1,)) + public).decode()
    return f"{name}+{key_id(name, COSIGNATURE_V1, public).hex()}+{body}"


def parse_cosigner(vkey: str) -> CosignerKey:
    """Return the witness of a verifier key; ``Misconfigured("witness.vkey")`` for any other text or key type."""
    name, _, rest = vkey.partition("+")
    identity, _, body = rest.partition("+")
    octets = decode_base64(body) or b""
    if is_key_name(name) and len(octets) == 33 and octets[0] == COSIGNATURE_V1:
        key = CosignerKey(name, octets[1:])
        if key.key_id.hex() == identity:
            return key
    raise Misconfigured(
        "witness.vkey",
        f"{vkey[:200]!r} is not the verifier key of a witness",
        hint="Copy the whole line name+id+key of an Ed25519 witness (type 04), as `birthmark witness init` prints it.",
        vkey=ascii(vkey[:200]),
    )


def cosigned_message(body: str, timestamp: int) -> bytes:
    """Return what is signed: header, time, and the whole body of the checkpoint with its last newline."""
    if not 0 <= timestamp <= _LATEST:
        raise Refused(
            "witness.time",
            f"{timestamp} is no time of a cosignature",
            hint="Check the clock of this machine.",
            timestamp=str(timestamp),
        )
    return f"cosignature/v1\ntime {timestamp}\n{body}".encode()


def cosign(body: str, name: str, key: Ed25519PrivateKey, *, timestamp: int) -> str:
    """Return the signature line (with its newline) of a witness under the body of a checkpoint.

    Whoever calls this has verified that the checkpoint extends all that it cosigned before, and has that on disk.
    """
    signed = key.sign(cosigned_message(body, timestamp))
    signature = timestamp.to_bytes(_TIME_OCTETS, "big") + signed
    identity = key_id(name, COSIGNATURE_V1, public_octets(key))
    return f"— {name} {base64.b64encode(identity + signature).decode()}\n"


def open_cosignatures(note: str | bytes, witnesses: Iterable[CosignerKey]) -> tuple[str, tuple[Cosignature, ...]]:
    """Return the body of a checkpoint and its cosignatures by ``witnesses``, one (the latest) of each.

    Signatures of others are skipped. Raises ``Tampered``: ``log.note.malformed``, ``witness.cosignature`` when one of
    a known witness does not hold.
    """
    body, lines = split_note(note)
    known = {(key.name, key.key_id): key for key in witnesses}
    found: dict[CosignerKey, Cosignature] = {}
    for line in lines:
        name, identity, signature = parse_signature(line)
        key = known.get((name, identity))
        if key is None:
            continue
        timestamp = int.from_bytes(signature[:_TIME_OCTETS], "big")
        if not _holds(key, signature, timestamp, body):
            raise Tampered(
                "witness.cosignature",
                f"the cosignature of {name} does not fit the checkpoint",
                hint="Trust nothing in this checkpoint, and ask the witness what it signed.",
                key_name=name,
            )
        if key not in found or found[key].timestamp < timestamp:
            found[key] = Cosignature(key, timestamp)
    return body, tuple(found.values())


def _holds(key: CosignerKey, signature: bytes, timestamp: int, body: str) -> bool:
    if len(signature) != COSIGNATURE_OCTETS or timestamp > _LATEST:
        return False
    public = Ed25519PublicKey.from_public_bytes(key.public)
    try:
        public.verify(signature[_TIME_OCTETS:], cosigned_message(body, timestamp))
    except InvalidSignature:
        return False
    return True
