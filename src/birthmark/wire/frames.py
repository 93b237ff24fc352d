"""Framed files: a magic line, then frames of kind (1 octet) | length (4 octets, big endian) | payload.

Bundles and reports are such files. A file that was cut off is told from one that is whole: the last frame is of kind
``Z`` and holds the SHA-256 of everything before it. There is no compression, and nothing in a frame is a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from birthmark.errors import Tampered

if TYPE_CHECKING:
    import hashlib

__all__ = ["END_KIND", "FRAME_LIMIT", "FrameWriter", "read_frames", "read_whole_frames"]

FRAME_LIMIT = 32 << 20
"""The longest payload. A reader never holds more than one frame."""
END_KIND = b"Z"
_HEAD = 5


class FrameWriter:
    """Writes frames through ``write``, in order. ``octets``: how long the file is so far.

    Who goes on with an unfinished file hands in ``kept``, and repeats the frames that stand there already with
    ``keep`` before the first new one.
    """

    def __init__(self, write: Callable[[bytes], object], magic: bytes, *, kept: bool = False) -> None:
        self._write = write
        self._hash = sha256()
        self.octets = 0
        (self._count if kept else self._put)(magic + b"\n")

    def frame(self, kind: bytes, payload: bytes) -> None:
        """Write one frame; ``kind`` is one ASCII letter."""
        self._put(_framed(kind, payload))

    def keep(self, kind: bytes, payload: bytes) -> None:
        """Count a frame that is in the file already."""
        self._count(_framed(kind, payload))

    def end(self) -> bytes:
        """Write the last frame; return the SHA-256 of everything before it."""
        digest = self._hash.digest()
        self._put(_framed(END_KIND, digest))
        return digest

    def _put(self, data: bytes) -> None:
        self._count(data)
        self._write(data)

    def _count(self, data: bytes) -> None:
        self._hash.update(data)
        self.octets += len(data)


def _framed(kind: bytes, payload: bytes) -> bytes:
    if len(kind) != 1 or len(payload) > FRAME_LIMIT:
        raise ValueError("a frame has a kind of one octet and at most 32 MiB")
    return kind + len(payload).to_bytes(4, "big") + payload


def read_frames(
    read: Callable[[int], bytes], magic: bytes, *, limit: int = FRAME_LIMIT, digest: hashlib._Hash | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, payload) of every frame but the last, which must fit what came before.

    ``read`` returns exactly so many octets, fewer only at the end. Whoever acts on a frame before the iteration ended
    acts on something that may yet turn out to be cut off. ``digest``: a new SHA-256 object; it holds everything before
    the last frame when the iteration ended. ``Tampered``: ``frames.magic``, ``frames.truncated``,
    ``frames.too_long``, ``frames.digest``, ``frames.trailing``.
    """
    digest = sha256() if digest is None else digest
    line = magic + b"\n"
    if read(len(line)) != line:
        raise _bad("frames.magic", f"this is no file of the format {magic.decode()}")
    digest.update(line)
    while True:
        head = read(_HEAD)
        if len(head) != _HEAD:
            raise _bad("frames.truncated", "the file is cut off between two frames")
        kind, length = head[:1], int.from_bytes(head[1:], "big")
        if length > limit:
            raise _bad("frames.too_long", f"a frame claims {length} octets")
        payload = read(length)
        if len(payload) != length:
            raise _bad("frames.truncated", "the file is cut off within a frame")
        if kind == END_KIND:
            if payload != digest.digest():
                raise _bad("frames.digest", "the file is damaged: its digest differs")
            if read(1):
                raise _bad("frames.trailing", "something stands behind the end of the file")
            return
        digest.update(head)
        digest.update(payload)
        yield kind, payload


def read_whole_frames(
    read: Callable[[int], bytes], magic: bytes, *, limit: int = FRAME_LIMIT
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, payload) of the frames that stand whole at the start of a file, however it goes on.

    Nothing is verified: for files that are unfinished, or whose payloads the caller knows by their hashes.
    """
    line = magic + b"\n"
    if read(len(line)) != line:
        return
    while len(head := read(_HEAD)) == _HEAD:
        kind, length = head[:1], int.from_bytes(head[1:], "big")
        if kind == END_KIND or length > limit or len(payload := read(length)) != length:
            return
        yield kind, payload


_HINTS = {"frames.magic": "Give the right file.", "": "Copy the file again from where it was made."}


def _bad(code: str, message: str) -> Tampered:
    return Tampered(code, message, hint=_HINTS.get(code, _HINTS[""]))
