"""Images as octets that are read in pieces: a file, or a file with some regions laid over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import StationFault
from birthmark.wire.imagedelta import Region

__all__ = ["CHUNK", "FileOctets", "Octets", "Overlay", "differences", "pieces", "same_octets"]

CHUNK = 1 << 20
"""Octets that are read at a time."""

_BLOCK = 512


class Octets(Protocol):
    """``size`` octets. ``read`` returns exactly those asked for, and is never asked for others."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


class FileOctets:
    """An open file, closed when nothing refers to it any more. It has to stay as long as it was when it was opened."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def __del__(self) -> None:
        os.close(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        parts, end = [], offset + length
        with naming_os_errors(self.path):
            while offset < end:
                part = os.pread(self.descriptor, end - offset, offset)
                if not part:
                    raise _shorter(self.path)
                parts.append(part)
                offset += len(part)
        return b"".join(parts)


class Overlay:
    """``below`` with ``regions`` (ascending, apart from each other) over it, ``size`` octets long, zero beyond it.

    ``device_serial``: for whom a delta says it is.
    """

    def __init__(
        self, below: Octets, size: int, regions: Sequence[Region], *, device_serial: str | None = None
    ) -> None:
        self.below = below
        self.device_serial = device_serial
        self.size = size
        self.regions = regions

    def read(self, offset: int, length: int) -> bytes:
        within = next((one for one in self.regions if one.offset <= offset and offset + length <= one.end), None)
        if within is not None:
            return within.data[offset - within.offset : offset - within.offset + length]
        known = max(0, min(length, self.below.size - offset))
        found = bytearray(self.below.read(offset, known) if known else b"")
        found += bytes(length - known)
        for region in self.regions:
            start, end = max(region.offset, offset), min(region.end, offset + length)
            if start < end:
                found[start - offset : end - offset] = region.data[start - region.offset : end - region.offset]
        return bytes(found)


def pieces(octets: Octets, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, octets) from ``start`` to ``end``."""
    for offset in range(start, end, CHUNK):
        yield offset, octets.read(offset, min(CHUNK, end - offset))


def same_octets(one: Octets, other: Octets) -> bool:
    """Say whether both hold the same."""
    if one.size != other.size:
        return False
    return all(other.read(offset, len(piece)) == piece for offset, piece in pieces(one, 0, one.size))


def differences(before: bytes, after: bytes, offset: int) -> list[Region]:
    """Return where ``after`` is not ``before`` (as long), in whole blocks of 512 octets; the first is at ``offset``."""
    if before == after:
        return []
    found: list[Region] = []
    for at in range(0, len(after), _BLOCK):
        block = after[at : at + _BLOCK]
        if block == before[at : at + _BLOCK]:
            continue
        if found and found[-1].end == offset + at:
            found[-1] = Region(found[-1].offset, found[-1].data + block)
        else:
            found.append(Region(offset + at, block))
    return found


def _shorter(path: Path) -> StationFault:
    return StationFault(
        "target.image.file.changed",
        f"{path} became shorter while it was read",
        hint="Find out what writes to it; then run the same command again.",
        path=str(path),
    )
