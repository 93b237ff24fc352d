"""Reports: how the log of a site comes home in one file (docs/formats/report.md), and the authority's acknowledgement.

A report proves itself: the edge of the tree before its first entry, the entries, and the signed head that both lead
to. So a damaged file and a log that was rewritten are told apart without looking at anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Tampered
from birthmark.tlog.merkle import Frontier
from birthmark.tlog.note import MAX_NOTE_OCTETS
from birthmark.tlog.tiles import decode_entries
from birthmark.wire.document import (
    Digest,
    DocumentPart,
    Moment,
    Text,
    document_kind,
    open_document,
    sign_document,
)
from birthmark.wire.frames import FrameWriter, read_frames, read_whole_frames

__all__ = [
    "REPORT_MAGIC",
    "Acknowledgement",
    "ReportHeader",
    "ReportReader",
    "open_acknowledgement",
    "sign_acknowledgement",
    "write_report",
]

REPORT_MAGIC = b"birthmark-report/1"
_PIECE_OCTETS = 1 << 18
"""Entries collected for one frame; the last one may overshoot by its own length."""
_FRAME_OCTETS = 1 << 20
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Edge = Annotated[tuple[Digest, ...], msgspec.Meta(max_length=64)]


class ReportHeader(DocumentPart, frozen=True, kw_only=True):
    """Entries ``first`` to ``size - 1`` of the log ``origin`` follow. ``edge``: hashes of its frontier at ``first``."""

    origin: Text
    first: _Count
    size: _Count
    edge: _Edge

    def frontier(self) -> Frontier:
        """Return the edge of the tree before the first entry; ``Tampered("report.malformed")`` if it is none."""
        try:
            return Frontier(self.first, tuple(bytes.fromhex(item) for item in self.edge))
        except Tampered as problem:
            raise _malformed(problem.message) from None


@document_kind
class Acknowledgement(DocumentPart, frozen=True, kw_only=True):
    """The authority verified the head of ``size`` entries with ``root`` of the site's log ``origin``."""

    format: Literal["birthmark-ack/1"] = "birthmark-ack/1"
    authority: Text
    site: Text
    origin: Text
    size: _Count
    root: Digest
    at: Moment


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(ReportHeader)


def write_report(
    write: Callable[[bytes], object], header: ReportHeader, checkpoint: bytes, pieces: Iterable[bytes]
) -> None:
    """Write a report. ``pieces``: the entries in bundle form (2 octets of length before each), whole ones end to end.

    Power cut: a file that is cut off lacks its last frame and is refused by every reader.
    """
    frames = FrameWriter(write, REPORT_MAGIC)
    frames.frame(b"H", _encoder.encode(header))
    frames.frame(b"C", checkpoint)
    for piece in _recut(pieces):
        frames.frame(b"E", piece)
    frames.end()


def _recut(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same entries in pieces of about ``_PIECE_OCTETS``, whatever size they came in."""
    held = bytearray()
    for piece in pieces:
        at, end = 0, len(piece)
        while at < end:
            start = at
            while at < end and len(held) + at - start < _PIECE_OCTETS:
                at += 2 + (piece[at] << 8 | piece[at + 1])
            held += piece[start:at]
            if len(held) >= _PIECE_OCTETS:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


class ReportReader:
    """Reads a report from ``read`` (exactly so many octets, fewer only at the end). A frame is held at a time.

    ``seen``: the caller knows the entries by the root that they lead to, so that the digest of the file is not made
    again. Raises ``Tampered``: ``frames.*``, ``report.malformed``.
    """

    def __init__(self, read: Callable[[int], bytes], *, seen: bool = False) -> None:
        self._frames = (read_whole_frames if seen else read_frames)(read, REPORT_MAGIC, limit=_FRAME_OCTETS)
        header = self._next(b"H")
        try:
            self.header = _decoder.decode(header)
        except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
            raise _malformed(str(problem)) from None
        if _encoder.encode(self.header) != header:
            raise _malformed("its header is not in canonical form")
        if self.header.first > self.header.size:
            raise _malformed("it begins behind its end")
        self.edge = self.header.frontier()
        self.checkpoint = self._next(b"C")
        if len(self.checkpoint) > MAX_NOTE_OCTETS:
            raise _malformed("its checkpoint is too long")

    def _next(self, kind: bytes) -> bytes:
        found, payload = next(self._frames, (b"", b""))
        if found != kind:
            raise _malformed(f"it has no frame {kind.decode()} where one must be")
        return payload

    def entries(self) -> Iterator[list[bytes]]:
        """Yield the entries, frame by frame. Only when this ended well are they those of a whole report."""
        left = self.header.size - self.header.first
        for kind, payload in self._frames:
            if kind != b"E" or not payload:
                raise _malformed("it holds a frame that is not one of entries")
            try:
                entries = decode_entries(payload)
            except Tampered:
                raise _malformed("an entry is cut by the end of its frame") from None
            left -= len(entries)
            if left < 0:
                break
            yield entries
        if left:
            raise _malformed("it does not hold as many entries as its header says")


def sign_acknowledgement(ack: Acknowledgement, log_key: Ed25519PrivateKey) -> bytes:
    """Return the acknowledgement signed by the key of the authority's log."""
    return sign_document(ack, log_key, ack.authority)


def open_acknowledgement(data: bytes, vkey: str) -> Acknowledgement:
    """Return what the authority ``vkey`` acknowledged; ``Tampered``: ``document.signature``, ``document.malformed``."""
    return open_document(data, vkey, Acknowledgement)


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "report.malformed",
        f"this is no report of a site: {reason}",
        hint="Let the site write its report again, and carry it home unchanged.",
        reason=reason[:200],
    )
