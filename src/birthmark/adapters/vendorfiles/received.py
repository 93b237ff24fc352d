"""Opening what a stranger sent: a plain file, hashed while it is read, copied where it must be read twice."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import Misconfigured, Refused

__all__ = ["Received", "refuse_archive"]

_PIECE = 1 << 16
_MAX_OCTETS = 8 << 30
_MAX_RATIO = 40
"""Times that a bundle of certificates grows when it is unpacked, at most: they hardly compress, padding does."""
_GZIP = 31


def refuse_archive(reason: str) -> Refused:
    """Return the refusal of an archive."""
    return Refused(
        "preload.archive",
        f"this archive is not taken apart: {reason}",
        hint="Ask the vendor for a plain archive with one certificate a file; nothing of it was taken in.",
        reason=reason,
    )


class Received:
    """One plain file. Use as a context. ``sha256``: of what was read, whole once ``pieces`` or ``copy`` has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
        except (OSError, ValueError) as problem:
            raise _missing(path, getattr(problem, "strerror", None) or "not a path") from problem
        self._file: IO[bytes] = os.fdopen(descriptor, "rb")
        if not plain:
            self._file.close()
            raise _missing(path, "it is not a plain file")
        self._digest = hashlib.sha256()

    def __enter__(self) -> Received:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def head(self, octets: int) -> bytes:
        """Return the first octets, without moving on."""
        with naming_os_errors(self._path):
            return os.pread(self._file.fileno(), octets, 0)

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole file from its beginning."""
        self._digest = hashlib.sha256()
        total = 0
        with naming_os_errors(self._path):
            self._file.seek(0)
        while True:
            with naming_os_errors(self._path):
                piece = self._file.read(_PIECE)
            if not piece:
                return
            total += len(piece)
            if total > _MAX_OCTETS:
                raise _missing(self._path, f"it has more than {_MAX_OCTETS} octets")
            self._digest.update(piece)
            yield piece

    def copy(self, directory: Path, *, gzipped: bool) -> IO[bytes]:
        """Return an unnamed copy, unpacked if it is ``gzipped``: what is checked is then what is read again."""
        with naming_os_errors(directory):
            out: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  the caller closes it
        try:
            for piece in self._unpacked() if gzipped else self.pieces():
                with naming_os_errors(directory):
                    out.write(piece)
            out.seek(0)
        except BaseException:
            out.close()
            raise
        return out

    def _unpacked(self) -> Iterator[bytes]:
        unpack, packed, total = zlib.decompressobj(_GZIP), 0, 0
        for piece in self.pieces():
            packed += len(piece)
            data = piece
            while data:
                try:
                    plain = unpack.decompress(data, _PIECE)
                except zlib.error:
                    raise refuse_archive("it is damaged") from None
                total += len(plain)
                if total > _MAX_RATIO * packed + _PIECE:
                    raise refuse_archive(f"it grows to more than {_MAX_RATIO} times its size")
                yield plain
                if unpack.eof:
                    if unpack.unused_data:
                        raise refuse_archive("something stands behind it")
                    data = b""
                else:
                    data = unpack.unconsumed_tail
        if not unpack.eof:
            raise refuse_archive("it is cut off")


def _missing(path: Path, reason: str) -> Misconfigured:
    return Misconfigured(
        "preload.file",
        f"cannot read {path}: {reason}",
        hint="Name the file or directory as the vendor sent it.",
        path=str(path),
    )
