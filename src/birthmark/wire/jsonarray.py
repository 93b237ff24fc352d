"""Takes a JSON array apart while it is read: one element at a time, so that memory is that of the largest one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from birthmark.errors import Refused

__all__ = ["MAX_ELEMENT", "array_elements"]

MAX_ELEMENT = 64 << 10
"""Octets of one element."""

_SPACE = b" \t\r\n"
_MARKS = re.compile(rb'["\\{}\[\],]')
_OPEN, _CLOSE = b"{[", b"}]"
_MARK_BYTES = b"\xef\xbb\xbf"


def array_elements(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the elements of the one JSON array (RFC 8259) that the pieces make, undecoded.

    What an element holds is for its reader: here only strings and brackets are told apart. Raises
    ``Refused("preload.json")``: there is no array, it does not end, something stands behind it, or an element has more
    than ``MAX_ELEMENT`` octets.
    """
    return _Splitter().run(pieces)


class _Splitter:
    def __init__(self) -> None:
        self._element = bytearray()
        self._depth = 0
        self._quoted = self._escaped = False
        self._state = "before"
        self._first = True

    def run(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        fresh = True
        for piece in pieces:
            if fresh and piece:
                piece, fresh = piece.removeprefix(_MARK_BYTES), False
            yield from self._take(piece)
        if self._state != "after":
            raise _no_array("it is cut off")

    def _take(self, piece: bytes) -> Iterator[bytes]:
        at = self._begin(piece) if self._state == "before" else 0
        while self._state == "inside" and at < len(piece):
            at, whole = self._step(piece, at)
            if len(self._element) > MAX_ELEMENT:
                raise _no_array(f"an element has more than {MAX_ELEMENT} octets")
            if whole:
                yield from self._end_element()
        if self._state == "after" and piece[at:].strip(_SPACE):
            raise _no_array("something stands behind it")

    def _begin(self, piece: bytes) -> int:
        """Return where the array's contents begin in this piece."""
        rest = piece.lstrip(_SPACE)
        if not rest:
            return len(piece)
        if rest[:1] != b"[":
            raise _no_array("it does not begin with [")
        self._state = "inside"
        return len(piece) - len(rest) + 1

    def _step(self, piece: bytes, at: int) -> tuple[int, bool]:
        """Take octets up to and with the next mark; tell whether it ends an element."""
        if self._escaped:
            self._element += piece[at : at + 1]
            self._escaped = False
            return at + 1, False
        found = _MARKS.search(piece, at)
        if found is None:
            self._element += piece[at:]
            return len(piece), False
        mark, end = found[0], found.end()
        if not self._quoted and self._depth == 0 and mark in b",]":
            self._element += piece[at : end - 1]
            self._state = "inside" if mark == b"," else "after"
            return end, True
        self._element += piece[at:end]
        if self._quoted:
            self._escaped, self._quoted = mark == b"\\", mark != b'"'
        elif mark == b'"':
            self._quoted = True
        elif mark in _OPEN:
            self._depth += 1
        elif mark in _CLOSE:
            self._depth -= 1
        return end, False

    def _end_element(self) -> Iterator[bytes]:
        element = bytes(self._element).strip(_SPACE)
        self._element.clear()
        empty_array = self._state == "after" and self._first
        self._first = False
        if not element:
            if empty_array:
                return
            raise _no_array("an element is missing")
        yield element


def _no_array(reason: str) -> Refused:
    return Refused(
        "preload.json",
        f"this is not one JSON array of elements: {reason}",
        hint="Ask the vendor for the manifest again; nothing of it was taken in.",
        reason=reason,
    )
