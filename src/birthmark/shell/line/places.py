"""One device at a time in each place: a port, a directory, a token; over all heads and all processes of a workspace."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import Unavailable
from birthmark.ports import Occupies, Target

__all__ = ["PlaceLocks", "place_of"]

_OFFSET_OCTETS = 8
_LARGEST_OFFSET = (1 << 62) - 1


class PlaceLocks:
    """Locks on single octets of one file: the octet's number is taken from the hash of the place.

    They belong to an open file (``F_OFD_SETLK``, fcntl(2)), so that threads exclude each other as processes do, and
    end with the process however it ends. The file stays empty: no lock is ever left behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def alone(self, place: str) -> Iterator[None]:
        """Hold ``place``; ``Unavailable("station.target.busy")`` if another head or process works there."""
        with naming_os_errors(self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock_of(place))
            except BlockingIOError:
                raise Unavailable(
                    "station.target.busy",
                    f"another head works at {place[:200]}",
                    hint="Wait until it is done, or give every head a place of its own; nothing was written.",
                    target=ascii(place[:200]),
                ) from None
            yield
        finally:
            os.close(descriptor)


def place_of(target: Target, uri: str) -> str:
    """Return the name of the place that ``target`` occupies: what it says itself, else its URI without options."""
    return target.place if isinstance(target, Occupies) else uri.partition("?")[0]


def _lock_of(place: str) -> bytes:
    """Return a ``struct flock`` for one octet."""
    offset = int.from_bytes(sha256(place.encode()).digest()[:_OFFSET_OCTETS], "big") & _LARGEST_OFFSET
    return struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
