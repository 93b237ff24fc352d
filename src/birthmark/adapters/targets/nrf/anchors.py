"""The identity keys of modems, as their maker gave them: one line ``UUID SPKI`` for each (docs/targets/nrf.md)."""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from birthmark.adapters.targets.nrf.keygen import Keygen, Token
from birthmark.errors import DeviceFault, Misconfigured
from birthmark.ports import Attestation

__all__ = ["IdentityKeys", "attestation"]

_MOST_OF_A_LINE = 4096
_KIND = "nrf-keygen"


class IdentityKeys:
    """Looks a modem up in the file, each time anew: a list of the next delivery counts at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, device: UUID) -> ec.EllipticCurvePublicKey:
        """Return the identity key; ``DeviceFault("target.anchor.unknown")`` if the maker did not name this device."""
        found = self._lines_of(device)
        if not found:
            raise DeviceFault(
                "target.anchor.unknown",
                f"the maker's list has no identity key for modem {device}",
                hint="Get the list of this delivery from the maker; a modem not on it is not known to be genuine.",
                device=str(device),
            )
        try:
            (text,) = found
            key = load_der_public_key(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error, UnsupportedAlgorithm) as problem:
            raise self._unreadable(f"the line of {device}") from problem
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise self._unreadable(f"the line of {device} holds no P-256 key")
        return key

    def _lines_of(self, device: UUID) -> list[str]:
        wanted, found = str(device).encode(), []
        try:
            with open(self._path, "rb") as file:
                while line := file.readline(_MOST_OF_A_LINE):
                    name, _, key = line.partition(b" ")
                    if name.lower() == wanted:
                        found.append(key.strip().decode("ascii"))
        except (OSError, UnicodeDecodeError) as problem:
            raise self._unreadable("it is not there or not ASCII text") from problem
        return found

    def _unreadable(self, reason: str) -> Misconfigured:
        return Misconfigured(
            "target.anchors.unreadable",
            f"the identity keys in {self._path} cannot be used: {reason}",
            hint="Write one line for each modem: its UUID, a space, its P-256 key (SubjectPublicKeyInfo, base64).",
            path=str(self._path),
        )


def attestation(made: Keygen, token: Token, *, sec_tag: int, challenge: bytes, keys: IdentityKeys) -> Attestation:
    """Return what both statements show, once the identity key of one and the same modem signed them.

    ``DeviceFault``: ``target.attestation.signature``, ``target.attestation.other`` (another modem, slot or challenge),
    ``target.anchor.unknown``.
    """
    if made.device != token.device or made.sec_tag != sec_tag or token.nonce != challenge:
        raise DeviceFault(
            "target.attestation.other",
            "what the modem attests is of another modem, another slot or another challenge",
            hint="Take it off the line: somebody may replay what another modem said.",
            device=str(token.device),
        )
    key = keys.find(made.device)
    if not made.cose.holds(key) or not token.cose.holds(key, token.message):
        raise DeviceFault(
            "target.attestation.signature",
            f"what modem {made.device} attests is not signed by its identity key",
            hint="Take it off the line: it is not the modem that its maker made, or somebody is in between.",
            device=str(made.device),
        )
    return Attestation(
        kind=_KIND,
        spki=made.spki,
        anchor=sha256(_der(key)).digest(),
        statement=f"{made.text}\n{token.text}\n".encode(),
    )


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
