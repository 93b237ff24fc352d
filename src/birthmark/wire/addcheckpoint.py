"""c2sp.org/tlog-witness: the body of an ``add-checkpoint`` request.

``old <size>``, at most 63 lines of a consistency proof in base64, an empty line, and the checkpoint.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from birthmark.errors import Refused
from birthmark.tlog.checkpoint import parse_decimal
from birthmark.tlog.merkle import HASH_OCTETS
from birthmark.tlog.note import MAX_NOTE_OCTETS, decode_base64
from birthmark.tlog.proof import MAX_HASHES

__all__ = ["AddCheckpoint", "parse_add_checkpoint"]


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A log asks for a cosignature: ``checkpoint`` (signed note) extends the head of ``old`` entries by ``proof``."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def render(self) -> bytes:
        """Return the body of the request."""
        lines = [f"old {self.old}", *_encoded(self.proof)]
        return ("\n".join(lines) + "\n\n").encode() + self.checkpoint


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Return the request in a body, nothing of it verified; ``Refused("witness.request")`` if it is none."""
    head, blank, checkpoint = body.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise _malformed("its head is not ASCII") from None
    old = parse_decimal(first.removeprefix("old ")) if first.startswith("old ") else None
    if not blank or old is None or len(body) > MAX_NOTE_OCTETS:
        raise _malformed("it does not begin with old, a size, and an empty line after the proof")
    proof = [decode_base64(line) for line in lines]
    hashes = tuple(item for item in proof if item is not None and len(item) == HASH_OCTETS)
    if len(hashes) < len(lines) or len(lines) > MAX_HASHES:
        raise _malformed(f"its proof is not at most {MAX_HASHES} hashes in base64")
    return AddCheckpoint(old, hashes, checkpoint)


def _encoded(proof: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(item).decode() for item in proof]


def _malformed(reason: str) -> Refused:
    return Refused(
        "witness.request",
        f"this is no add-checkpoint request: {reason}",
        hint="Send it as c2sp.org/tlog-witness describes.",
        reason=reason,
    )
