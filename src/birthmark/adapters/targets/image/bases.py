"""Base images: hashed once a process, kept once under their SHA-256, checked to be what they were."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from birthmark.adapters.durable import fill_durably, naming_os_errors, sync_directory
from birthmark.adapters.targets.image.octets import FileOctets, pieces
from birthmark.errors import Misconfigured, StationFault
from birthmark.ports import Fence

__all__ = ["Base", "Store", "open_base"]

_T = TypeVar("_T")
_Seen = tuple[int, int, int, int, int]
_MODE = 0o444
_MOST_OPEN = 16


class Base(FileOctets):
    """A base image. What was worked out about it once (``remember``) holds as long as its file is untouched."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path, descriptor)
        self._seen = _seen(os.fstat(descriptor))
        digest = sha256()
        for _, piece in pieces(self, 0, self.size):
            digest.update(piece)
        self.sha256 = digest.hexdigest()
        self._memory: dict[object, Any] = {}
        self._lock = threading.Lock()

    def is_untouched(self) -> bool:
        """Say whether nobody wrote to the file since it was hashed, and its name still leads to it."""
        try:
            return _seen(os.stat(self.path)) == self._seen
        except OSError:
            return False

    def remember(self, key: object, work: Callable[[], _T]) -> _T:
        """Return the result of ``work`` for this base, done once for each ``key``; errors are not remembered."""
        with self._lock:
            if key not in self._memory:
                self._memory[key] = work()
            result: _T = self._memory[key]
            return result


_opened: dict[Path, Base] = {}
_opening = threading.Lock()


def open_base(path: Path) -> Base:
    """Return the base at ``path``, hashed anew only if its file changed.

    Raises ``Misconfigured("target.image.base.missing")`` if it cannot be read.
    """
    absolute = path.absolute()
    with _opening:
        known = _opened.get(absolute)
        if known is not None and known.is_untouched():
            return known
        try:
            descriptor = os.open(absolute, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as problem:
            raise _missing(path, problem.strerror or str(problem)) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _missing(path, "it is not a plain file")
        _opened.pop(absolute, None)
        while len(_opened) >= _MOST_OPEN:
            del _opened[next(iter(_opened))]  # closed as soon as nobody works with it
        _opened[absolute] = base = Base(absolute, descriptor)
        return base


class Store:
    """A directory in which each base lies once, as ``SHA256.base``, mode 0444."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, source: Base, fence: Fence) -> Base:
        """Return the stored copy of ``source``; it is made, durably, if it is not there. The copy is hashed as well."""
        path = self._path(source.sha256)
        with _keeping:
            if not path.exists():
                fence.hold()
                self._make()
                fill_durably(path, lambda descriptor: _copy(source, descriptor), mode=_MODE)
        return self.find(source.sha256)

    def find(self, digest: str) -> Base:
        """Return the stored base with this SHA-256; ``StationFault``: ``target.image.base.lost``, ``.damaged``."""
        path = self._path(digest)
        if not path.is_file():
            raise StationFault(
                "target.image.base.lost",
                f"the base image {digest} is not in {self._directory}",
                hint="Put the base image back there under its SHA-256, or name another directory with store=.",
                sha256=digest,
                path=str(path),
            )
        base = open_base(path)
        if base.sha256 != digest:
            raise StationFault(
                "target.image.base.damaged",
                f"{path} is not the base image that its name says",
                hint="Remove it and provision again; check the disk, and what was made from it before.",
                path=str(path),
                sha256=base.sha256,
            )
        return base

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}.base"

    def _make(self) -> None:
        with naming_os_errors(self._directory):
            self._directory.mkdir(exist_ok=True)
        sync_directory(self._directory.parent)


_keeping = threading.Lock()


def _copy(source: Base, descriptor: int) -> None:
    """Copy octets, hashed once more on the way: the name of a stored base is a promise."""
    digest = sha256()
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        for offset, piece in pieces(source, 0, source.size):
            digest.update(piece)
            if piece.count(0) != len(piece):
                file.seek(offset)
                file.write(piece)
        file.truncate(source.size)
    if digest.hexdigest() != source.sha256:
        raise StationFault(
            "target.image.base.changed",
            f"{source.path} changed while it was copied",
            hint="Let nothing write to a base image; give the new one a new name and run the command again.",
            path=str(source.path),
        )


def _seen(status: os.stat_result) -> _Seen:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _missing(path: Path, reason: str) -> Misconfigured:
    return Misconfigured(
        "target.image.base.missing",
        f"the base image {path} cannot be read: {reason}",
        hint="Name the firmware image with base=; a relative path starts at the working directory.",
        path=str(path),
    )
