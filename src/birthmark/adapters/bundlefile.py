"""The file of a bundle: written in one go or in many, read in pieces, never held whole."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

from birthmark.adapters.durable import naming_os_errors, sync_directory
from birthmark.errors import Misconfigured, Unavailable

__all__ = ["BundleInput", "BundleOutput"]

_BUFFER = 1 << 20


class BundleOutput:
    """A file that is ours alone (0600, locked) while it is written; what is there is read first, then kept or cut.

    Power cut before ``finish`` returned: any part of what was written may be missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming_os_errors(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path, flags, 0o600)
        try:
            _require_plain(descriptor, path)
            _lock(descriptor, path)
            self._file = os.fdopen(descriptor, "r+b", buffering=_BUFFER)
        except BaseException:
            os.close(descriptor)
            raise

    def read(self, octets: int) -> bytes:
        with naming_os_errors(self._path):
            return self._file.read(octets)

    def cut(self, octets: int) -> None:
        with naming_os_errors(self._path):
            self._file.seek(octets)
            self._file.truncate()

    def write(self, data: bytes) -> None:
        with naming_os_errors(self._path):
            self._file.write(data)

    def finish(self) -> None:
        with naming_os_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        sync_directory(self._path.parent)

    def __enter__(self) -> BundleOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with naming_os_errors(self._path):
                self._file.close()
        except BaseException:
            # What could not be written was told before, or the file is worth nothing anyway.
            if problem is None:
                raise


class BundleInput:
    """A file that is read from its start, once or more often."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as failure:
            raise Misconfigured(
                "bundle.file.missing",
                f"cannot read {path}: {getattr(failure, 'strerror', failure)}",
                hint="Name the bundle file, and its manifest with --manifest.",
                path=str(path),
            ) from None
        try:
            _require_plain(descriptor, path)
            self._file = os.fdopen(descriptor, "rb", buffering=_BUFFER)
        except BaseException:
            os.close(descriptor)
            raise

    def read(self, octets: int) -> bytes:
        with naming_os_errors(self._path):
            return self._file.read(octets)

    def rewind(self) -> None:
        with naming_os_errors(self._path):
            self._file.seek(0)

    def __enter__(self) -> BundleInput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _require_plain(descriptor: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise Misconfigured(
            "bundle.file.kind",
            f"{path} is not a plain file",
            hint="Name a plain file: it is read twice, and gone on with after an interruption.",
            path=str(path),
        )


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Unavailable(
            "bundle.file.busy",
            f"another process writes {path}",
            hint="Wait until it ends, then try again.",
            path=str(path),
        ) from None
