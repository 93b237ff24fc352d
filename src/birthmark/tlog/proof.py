"""c2sp.org/tlog-proof version 1: one text that proves, offline, that an entry is in a log.

First line ``c2sp.org/tlog-proof@v1``, perhaps ``extra <base64>``, ``index <decimal>``, the audit path in
base64 (one hash a line, lowest first), a blank line, the signed checkpoint as it is.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from birthmark.errors import Tampered
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint, parse_decimal
from birthmark.tlog.merkle import HASH_OCTETS, leaf_hash, verify_inclusion
from birthmark.tlog.note import MAX_NOTE_OCTETS, VerifierKey, decode_base64

__all__ = ["HEADER", "MAX_HASHES", "DeviceProof", "parse_proof", "verify_proof"]

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63
"""The length of the longest audit path."""


@dataclass(frozen=True, slots=True)
class DeviceProof:
    """The proof that entry ``index`` is in the log whose head is ``checkpoint_note``.

    ``hashes`` is the audit path (RFC 6962 section 2.1.1). ``extra`` is not authenticated by anything.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint_note: str
    extra: bytes | None = None

    def render(self) -> str:
        """Return the text of the proof (file extension ``.tlog-proof``)."""
        lines = [HEADER]
        if self.extra:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines.extend(base64.b64encode(item).decode() for item in self.hashes)
        return "\n".join(lines) + "\n\n" + self.checkpoint_note


def parse_proof(text: str | bytes) -> DeviceProof:
    """Return the parts of a proof, none of them checked against another.

    Raises ``Tampered`` (``log.proof.malformed``).
    """
    if len(text) > MAX_NOTE_OCTETS:
        raise _malformed("it is too long")
    try:
        whole = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    head, blank, note = whole.partition("\n\n")
    header, *lines = head.split("\n")
    if header != HEADER:
        raise _malformed(f"its first line is not {HEADER}")
    if not blank or not note:
        raise _malformed("it holds no checkpoint after a blank line")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "))
        if not extra:
            raise _malformed("its extra line is not base64")
    name, _, decimal = lines[0].partition(" ") if lines else ("", "", "")
    index = parse_decimal(decimal)
    if name != "index" or index is None:
        raise _malformed("it does not tell the index of the entry")
    hashes = tuple(item for line in lines[1:] if (item := decode_base64(line)) and len(item) == HASH_OCTETS)
    if len(hashes) != len(lines) - 1 or len(hashes) > MAX_HASHES:
        raise _malformed("its path is not a list of hashes")
    return DeviceProof(index, hashes, note, extra)


def verify_proof(text: str | bytes, entry: bytes, origin: str, vkey: str | VerifierKey) -> Checkpoint:
    """Check that ``entry`` is in the log ``origin`` signed by ``vkey``; return the head that shows it.

    Raises ``Tampered``: ``log.proof.malformed``, ``log.proof.inclusion``, and what
    :func:`~birthmark.tlog.checkpoint.open_checkpoint` raises.
    """
    proof = parse_proof(text)
    checkpoint = open_checkpoint(proof.checkpoint_note, origin, vkey)
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return checkpoint


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "log.proof.malformed",
        f"this is not a proof of inclusion: {reason}",
        hint="Fetch the proof again, unchanged.",
        reason=reason,
    )
