"""c2sp.org/tlog-checkpoint: the signed head of a log.

The text of the note is three lines: origin, size in decimal, root in base64.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Refused, Tampered
from birthmark.tlog.merkle import EMPTY_ROOT, HASH_OCTETS, MAX_SIZE
from birthmark.tlog.note import VerifierKey, decode_base64, open_note, parse_vkey, sign_note

__all__ = ["Checkpoint", "open_checkpoint", "parse", "parse_decimal", "sign"]

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of the log ``origin``: ``size`` entries under ``root`` (32 octets, RFC 6962).

    What cannot be a head is refused (``log.checkpoint.value``).
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        reason = _fault(self.origin, self.size, self.root)
        if reason is not None:
            raise Refused(
                "log.checkpoint.value",
                f"this cannot be the head of a log: {reason}",
                hint="Make the checkpoint from the origin of the log and the size and root of its tree.",
                reason=reason,
            )

    def body(self) -> str:
        """Return the text to sign: three lines, each with its newline."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def parse(text: str) -> Checkpoint:
    """Return the checkpoint of a note text; extension lines are read over.

    Raises ``Tampered`` (``log.checkpoint.malformed``).
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "":
        raise _malformed("it is not three or more lines")
    if "" in lines:
        raise _malformed("a line is empty")
    origin, decimal, encoded = lines[:3]
    size, root = parse_decimal(decimal), decode_base64(encoded)
    if size is None:
        raise _malformed("its second line is not the size of a log")
    if root is None:
        raise _malformed("its third line is not base64")
    reason = _fault(origin, size, root)
    if reason is not None:
        raise _malformed(reason)
    return Checkpoint(origin, size, root)


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """Return the checkpoint as a note signed under the name of its origin.

    Whoever calls this has made sure that the head extends every head signed before. An origin that cannot
    name a key (spaces, ``+``) is refused (``log.key.name``).
    """
    return sign_note(checkpoint.body(), checkpoint.origin, key)


def open_checkpoint(note: str | bytes, origin: str, vkey: str | VerifierKey) -> Checkpoint:
    """Return the checkpoint of a note that the key ``vkey`` signed for the log ``origin``.

    Raises ``Tampered``: ``log.note.*``, ``log.checkpoint.malformed``, or ``log.checkpoint.origin`` when it
    is the head of another log; ``Misconfigured`` (``log.vkey.malformed``).
    """
    key = parse_vkey(vkey) if isinstance(vkey, str) else vkey
    text, _ = open_note(note, (key,))
    checkpoint = parse(text)
    if checkpoint.origin != origin:
        raise Tampered(
            "log.checkpoint.origin",
            f"this is the head of the log {checkpoint.origin[:200]}, not of {origin[:200]}",
            hint="Use the checkpoint of the log that was asked for.",
            origin=checkpoint.origin[:200],
            expected=origin[:200],
        )
    return checkpoint


def parse_decimal(text: str) -> int | None:
    """Return the size or index that ASCII decimal without leading zeros stands for, or None."""
    if _DECIMAL.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= MAX_SIZE else None


def _fault(origin: str, size: int, root: bytes) -> str | None:
    if not origin or _CONTROL.search(origin):
        return "its origin is not one line of text"
    if not 0 <= size <= MAX_SIZE:
        return "its size is out of range"
    if len(root) != HASH_OCTETS:
        return "its root is not 32 octets"
    if size == 0 and root != EMPTY_ROOT:
        return "the empty log has another root"
    return None


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "log.checkpoint.malformed",
        f"this is not a checkpoint: {reason}",
        hint="Fetch the checkpoint again, unchanged.",
        reason=reason,
    )
