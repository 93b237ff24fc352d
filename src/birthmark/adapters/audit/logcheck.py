"""Signed notes, checkpoints and RFC 6962 trees, read as an outsider would (c2sp.org/signed-note, tlog-checkpoint)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from birthmark.errors import Misconfigured, Tampered

__all__ = ["Head", "LogKey", "Tree", "fold_path", "open_head", "open_signed", "pairs_root", "read_vkey"]

sha256 = hashlib.sha256


@dataclass(frozen=True, slots=True)
class LogKey:
    """An Ed25519 verifier key and its name."""

    name: str
    key_id: bytes
    public: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """A signed head: ``size`` entries of log ``origin`` under ``root``."""

    origin: str
    size: int
    root: bytes


def _base64(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode("ascii") == text else None


def read_vkey(text: str) -> LogKey:
    """Return the key of ``name+id+base64``; ``Misconfigured("audit.vkey")`` if it is none."""
    parts = text.strip().split("+", 2)
    body = _base64(parts[2]) if len(parts) == 3 else None
    if body is not None and len(body) == 33 and body[0] == 1 and parts[0]:
        # What is not Unicode text (a file name's stray octets) has another id than any key.
        key_id = sha256(parts[0].encode(errors="replace") + b"\n" + body).digest()[:4]
        if key_id.hex() == parts[1]:
            return LogKey(parts[0], key_id, body[1:])
    raise Misconfigured(
        "audit.vkey",
        "this is not the verifier key of a log",
        hint="Give the line name+id+key that the owner of the log published (file log/vkey).",
        vkey=ascii(text[:200]),
    )


def open_signed(note: bytes, key: LogKey) -> str:
    """Return the text of a note that ``key`` signed.

    Raises ``Tampered``: ``audit.note.malformed``, ``audit.note.signature``.
    """
    try:
        whole = note.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    text, blank, signatures = whole.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise _malformed("it has no signature lines")
    text += "\n"
    for line in signatures[:-1].split("\n"):
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        data = _base64(encoded)
        if dash != "—" or not name or data is None or len(data) < 5:
            raise _malformed("a line after the blank line is not a signature")
        if name == key.name and data[:4] == key.key_id:
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(data[4:], text.encode())
            except InvalidSignature:
                break
            return text
    raise Tampered(
        "audit.note.signature",
        f"{key.name} did not sign this text",
        hint="Keep the file as evidence and ask its owner for the original.",
        key_name=key.name,
    )


def open_head(note: bytes, key: LogKey) -> Head:
    """Return the head that a checkpoint states, signed by ``key``; raises as :func:`open_signed` does."""
    lines = open_signed(note, key).split("\n")
    if len(lines) < 4 or not lines[0] or not lines[1].isascii() or not lines[1].isdecimal():
        raise _malformed("it is not a checkpoint")
    root = _base64(lines[2])
    if root is None or len(root) != 32 or len(lines[1]) > 19 or str(int(lines[1])) != lines[1]:
        raise _malformed("it is not a checkpoint")
    return Head(lines[0], int(lines[1]), root)


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "audit.note.malformed",
        f"this is not a signed note: {reason}",
        hint="Fetch the file again, unchanged.",
        reason=reason,
    )


def pairs_root(hashes: bytes) -> bytes:
    """Return the root over a power of two of hashes, 32 octets each, end to end (RFC 6962 section 2.1)."""
    level = hashes
    while len(level) > 32:
        level = b"".join([sha256(b"\x01" + level[at : at + 64]).digest() for at in range(0, len(level), 64)])
    return level


def fold_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root an audit path leads to (RFC 9162 section 2.1.3.2), None if it has a wrong length."""
    if not 0 <= index < size:
        return None
    node, last = leaf, size - 1
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = sha256(b"\x01" + sibling + node).digest()
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            node = sha256(b"\x01" + node + sibling).digest()
        index >>= 1
        last >>= 1
    return node if last == 0 else None


class Tree:
    """A tree known by the roots of its blocks of 256 leaves and by the leaf hashes after the last block."""

    def __init__(self, blocks: list[bytes], rest: bytes) -> None:
        self.blocks = blocks
        self.rest = rest
        self._levels: list[list[bytes]] = [blocks]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = zip(below[::2], below[1::2], strict=False)
            self._levels.append([sha256(b"\x01" + left + right).digest() for left, right in pairs])

    @property
    def size(self) -> int:
        """The number of leaves."""
        return 256 * len(self.blocks) + len(self.rest) // 32

    def peaks(self, size: int, leaves: bytes) -> list[bytes]:
        """Return the roots of the complete subtrees of the first ``size`` leaves, largest first.

        ``leaves`` are the leaf hashes of the last, incomplete block at that size.
        """
        peaks, block = [], 0
        whole = size // 256
        for level in range(whole.bit_length() - 1, -1, -1):
            if whole >> level & 1:
                peaks.append(self._levels[level][block >> level])
                block += 1 << level
        at, count = 0, size % 256
        for level in range(7, -1, -1):
            if count >> level & 1:
                peaks.append(pairs_root(leaves[at : at + (32 << level)]))
                at += 32 << level
        return peaks

    def root(self, size: int, leaves: bytes) -> bytes:
        """Return the root of the first ``size`` leaves; ``leaves`` as for :meth:`peaks`."""
        peaks = self.peaks(size, leaves)
        if not peaks:
            return sha256(b"").digest()
        node = peaks.pop()
        while peaks:
            node = sha256(b"\x01" + peaks.pop() + node).digest()
        return node
