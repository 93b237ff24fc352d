"""The transcript of a ceremony: text for people, signed by the key of the log, then by those who took part.

What the log records is its SHA-256 as the log's key signed it: the text, the blank line and the first signature. Later
signatures are appended below and do not change that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark import __version__
from birthmark.errors import Tampered
from birthmark.tlog.note import sign_note

__all__ = ["Occasion", "recorded_part", "sign_transcript", "transcript_text"]


@dataclass(frozen=True, slots=True)
class Occasion:
    """What every transcript of one ceremony says first. ``approved``: one line an approver."""

    title: str
    file_sha256: str
    operator: str
    participants: tuple[str, ...]
    approved: tuple[str, ...] = ()

    def lines(self, at: str) -> list[str]:
        return [
            "birthmark-transcript/2",
            f"title: {self.title}",
            f"ceremony-file-sha256: {self.file_sha256}",
            f"at: {at}",
            f"software: birthmark {__version__}",
            f"operator: {self.operator}",
            *(f"participant: {name}" for name in self.participants),
            *(f"approved: {line}" for line in self.approved),
        ]


def sign_transcript(lines: Sequence[str], *, origin: str, key: Ed25519PrivateKey) -> bytes:
    """Return the signed transcript. A line feed within a line becomes a space: nothing can look like a line of ours."""
    text = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines) + "\n"
    return sign_note(text, origin, key).encode()


def transcript_text(data: bytes) -> str:
    """Return the text of a transcript; ``Tampered("ceremony.transcript")`` if this is none."""
    text, blank, _ = data.decode(errors="replace").partition("\n\n")
    if not blank or not text.startswith("birthmark-transcript/"):
        raise Tampered(
            "ceremony.transcript",
            "this is no transcript of a ceremony",
            hint="Use the file that `birthmark ceremony run` wrote into ca/.",
        )
    return text + "\n"


def recorded_part(data: bytes) -> tuple[bytes, str]:
    """Return what the log recorded of a transcript, without the signatures of those who took part; and its SHA-256."""
    transcript_text(data)
    text, _, block = data.partition(b"\n\n")
    part = text + b"\n\n" + block.partition(b"\n")[0] + b"\n"
    return part, sha256(part).hexdigest()
