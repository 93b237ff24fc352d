"""The 32 octets in the chip that say what becomes of its key and its certificate: the commit point.

``bma1`` (4) · state (1) · layout (1) · length of the certificate (2) and of the issuing CA (2), in ``der`` · first 14
octets of the SHA-256 of X ‖ Y · first 8 octets of the SHA-256 of all before. They are one block, which the chip writes
whole; if it did not, the check tells.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256

__all__ = ["COMPRESSED", "DER", "INSTALLED", "MAKING", "RECORD_OCTETS", "WAITING", "Record", "read_record", "tag_of"]

RECORD_OCTETS = 32
MAKING, WAITING, INSTALLED = 1, 2, 3
"""A key is being made: none counts · a key waits for its certificate · the certificate is there."""
COMPRESSED, DER = 1, 2

_FORM = struct.Struct(">4sBBHH14s")
_MAGIC = b"bma1"
_CHECK_OCTETS = 8


@dataclass(frozen=True, slots=True)
class Record:
    """``tag`` names the key; ``lengths``: octets of device certificate and issuing CA."""

    state: int
    layout: int
    tag: bytes
    lengths: tuple[int, int] = (0, 0)

    def octets(self) -> bytes:
        """Return the record as it is stored."""
        body = _FORM.pack(_MAGIC, self.state, self.layout, *self.lengths, self.tag)
        return body + sha256(body).digest()[:_CHECK_OCTETS]


def read_record(octets: bytes) -> Record | None:
    """Return the record in these octets, or None: a new chip, somebody else's, or a cut while it was written."""
    body, check = octets[: _FORM.size], octets[_FORM.size : RECORD_OCTETS]
    if len(octets) != RECORD_OCTETS or check != sha256(body).digest()[:_CHECK_OCTETS]:
        return None
    magic, state, layout, certificate, issuer, tag = _FORM.unpack(body)
    if magic != _MAGIC or state not in (MAKING, WAITING, INSTALLED):
        return None
    return Record(state, layout, tag, (certificate, issuer))


def tag_of(point: bytes) -> bytes:
    """Return what names the key X ‖ Y in a record."""
    return sha256(point).digest()[:14]
