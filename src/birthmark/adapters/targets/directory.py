"""A directory of the device under test: small files, written durably, read from the medium."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors, sync_directory, write_durably
from birthmark.errors import DeviceFault, StationFault
from birthmark.ports import Fence

__all__ = ["Directory", "Found", "Permissions"]

_MAX_OCTETS = 1 << 20


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a file must have. ``owner``: (uid, gid), or None to leave it to the system."""

    mode: int
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was found."""

    data: bytes
    mode: int
    owner: tuple[int, int]

    def has(self, permissions: Permissions) -> bool:
        return self.mode == permissions.mode and permissions.owner in (None, self.owner)


class Directory:
    """The files of one device. Nothing here makes the directory: if it is missing, the device is not mounted.

    Whatever changes a file asks the fence that ``under`` was given, and is a defect outside of it. ``largest``: the
    most octets a file may have.
    """

    def __init__(self, path: Path, *, largest: int = _MAX_OCTETS) -> None:
        self.path = path
        self._largest = largest
        self._fence: Fence | None = None

    @property
    def place(self) -> str:
        """The directory itself, however it was named."""
        return f"directory:{os.path.realpath(self.path)}"

    @contextmanager
    def under(self, fence: Fence) -> Iterator[None]:
        """Let files be changed as long as ``fence`` holds."""
        self._fence = fence
        try:
            yield
        finally:
            self._fence = None

    def check(self) -> None:
        """Return if the directory is there, else ``StationFault("target.directory.missing")``."""
        if not self.path.is_dir():
            raise StationFault(
                "target.directory.missing",
                f"{self.path} is not a directory",
                hint="Mount the device under test, or correct the directory in the target.",
                path=str(self.path),
            )

    def read(self, name: str) -> Found | None:
        """Return a file read through a fresh handle, past the page cache where the system allows; None if absent."""
        path = self.path / name
        with naming_os_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_size > self._largest:
                    raise DeviceFault(
                        "target.file.unexpected",
                        f"{path} is not a small plain file",
                        hint="Remove it from the device and provision again.",
                        path=str(path),
                    )
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                data = file.read(self._largest)  # it may have grown since
        return Found(data, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))

    def write(self, name: str, data: bytes, permissions: Permissions) -> None:
        """Put a whole file in place or nothing; durable on return."""
        self._hold()
        write_durably(self.path / name, data, mode=permissions.mode, owner=permissions.owner)

    def move(self, name: str, new_name: str, permissions: Permissions) -> None:
        """Give a file its final name; durable on return."""
        self._hold()
        path = self.path / name
        with naming_os_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if permissions.owner is not None:
                    os.fchown(descriptor, *permissions.owner)
                os.fchmod(descriptor, permissions.mode)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(path, self.path / new_name)
            sync_directory(self.path)

    def remove(self, name: str) -> None:
        """Remove a file if it is there; durable on return."""
        self._hold()
        path = self.path / name
        with naming_os_errors(path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            sync_directory(self.path)

    def _hold(self) -> None:
        if self._fence is None:
            raise RuntimeError("a file of a device is changed without a fence")
        self._fence.hold()

    def sync(self, name: str) -> None:
        """Make an existing file durable: whoever wrote it may have been stopped before it was."""
        path = self.path / name
        with naming_os_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(self.path)
