"""Where an image goes: a delta file beside the stored base, or a whole image."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from birthmark.adapters.durable import fill_durably, naming_os_errors, sync_directory, sync_path, write_durably
from birthmark.adapters.targets.image.bases import Base, Store
from birthmark.adapters.targets.image.octets import CHUNK, FileOctets, Octets, Overlay, same_octets
from birthmark.errors import DeviceFault, Refused, Tampered
from birthmark.ports import Fence
from birthmark.wire.imagedelta import MAX_DELTA_OCTETS, Delta, Region, decode_delta, encode_delta

__all__ = ["DeltaOutput", "Output", "WholeOutput", "foreign", "write_whole"]

_MODE = 0o600
_FICLONE = 0x40049409
"""ioctl_ficlone(2): the new file shares the blocks of the old one until one of them is written."""


class Output(Protocol):
    """The file of one device.

    ``read`` returns the image as a flasher will see it, through a fresh handle; None if there is no file;
    ``DeviceFault`` if it is none of ours. ``holds`` says whether exactly this image is there already. ``write`` puts
    the whole file in place or nothing, mode 0600; durable on return. It asks ``fence`` when the content is complete.
    """

    def read(self) -> Octets | None: ...

    def require_mode(self) -> None: ...

    def holds(self, base: Base, device_serial: str, size: int, regions: Sequence[Region]) -> bool: ...

    def write(self, base: Base, device_serial: str, size: int, regions: Sequence[Region], fence: Fence) -> None: ...

    def sync(self) -> None: ...


class _File:
    """What both kinds of output do with their file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _open(self) -> FileOctets | None:
        """Return the file, opened anew and read past the page cache where the system allows; None if there is none."""
        with naming_os_errors(self._path):
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise foreign(self._path, "it is not a plain file")
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return FileOctets(self._path, descriptor)

    def require_mode(self) -> None:
        """Return if nobody but the owner can read the file, else ``DeviceFault("target.image.mode")``."""
        with naming_os_errors(self._path):
            mode = stat.S_IMODE(os.lstat(self._path).st_mode)
        if mode != _MODE:
            raise DeviceFault(
                "target.image.mode",
                f"{self._path} has the mode {mode:04o}: it holds a private key",
                hint="Find out who could read it; provision this device again as rework, with a new identity.",
                path=str(self._path),
                mode=f"{mode:04o}",
            )

    def sync(self) -> None:
        """Make an existing file durable: whoever wrote it may have been stopped before it was."""
        sync_path(self._path)
        sync_directory(self._path.parent)


class DeltaOutput(_File):
    """Implements ``Output``: only what differs is written."""

    def __init__(self, path: Path, store: Store) -> None:
        super().__init__(path)
        self._store = store

    def read(self) -> Octets | None:
        data = self._data()
        if data is None:
            return None
        try:
            delta = decode_delta(data)
        except Tampered as problem:
            raise foreign(self._path, problem.message) from None
        base = self._store.find(delta.base_sha256)
        if base.size != delta.base_size:
            raise foreign(self._path, "its base has another size")
        return Overlay(base, delta.size, delta.regions, device_serial=delta.device_serial)

    def holds(self, base: Base, device_serial: str, size: int, regions: Sequence[Region]) -> bool:
        return self._data() == _delta(base, device_serial, size, regions)

    def write(self, base: Base, device_serial: str, size: int, regions: Sequence[Region], fence: Fence) -> None:
        data = _delta(base, device_serial, size, regions)
        if len(data) > MAX_DELTA_OCTETS:
            raise Refused(
                "target.image.delta.size",
                f"the image of {device_serial} differs from its base in {len(data)} octets",
                hint="Use write=full for such images.",
                octets=len(data),
            )
        fence.hold()
        write_durably(self._path, data, mode=_MODE)

    def _data(self) -> bytes | None:
        found = self._open()
        if found is None:
            return None
        if found.size > MAX_DELTA_OCTETS:
            raise foreign(self._path, "it is larger than any delta")
        return found.read(0, found.size)


class WholeOutput(_File):
    """Implements ``Output``: a clone of the base where the file system shares blocks, else a copy without its zeros."""

    def read(self) -> Octets | None:
        return self._open()

    def holds(self, base: Base, device_serial: str, size: int, regions: Sequence[Region]) -> bool:
        found = self._open()
        return found is not None and same_octets(found, Overlay(base, size, regions))

    def write(self, base: Base, device_serial: str, size: int, regions: Sequence[Region], fence: Fence) -> None:
        write_whole(self._path, base, size, regions, before_it_counts=fence.hold)


def write_whole(
    path: Path, base: Base, size: int, regions: Sequence[Region], *, before_it_counts: Callable[[], None] = lambda: None
) -> None:
    """Put base and regions at ``path`` as one file, mode 0600, or nothing; durable on return."""

    def fill(descriptor: int) -> None:
        try:
            fcntl.ioctl(descriptor, _FICLONE, base.descriptor)
        except OSError:
            _copy_data(base, descriptor)
        os.ftruncate(descriptor, size)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            for region in regions:
                file.seek(region.offset)
                file.write(region.data)
        before_it_counts()

    fill_durably(path, fill, mode=_MODE)


def _copy_data(base: Base, descriptor: int) -> None:
    """Copy what the base holds, inside the kernel; its holes stay holes."""
    source, at = base.descriptor, 0
    while at < base.size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # no data behind this
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            copied = 0
            with suppress(OSError):  # another file system, or an old kernel
                copied = os.copy_file_range(source, descriptor, min(end - at, 64 * CHUNK), at, at)
            if copied == 0:
                copied = os.pwrite(descriptor, base.read(at, min(end - at, CHUNK)), at)
            at += copied


def _delta(base: Base, device_serial: str, size: int, regions: Sequence[Region]) -> bytes:
    return encode_delta(Delta(base.sha256, base.size, device_serial, size, tuple(regions)))


def foreign(path: Path, reason: str) -> DeviceFault:
    """Return the fault of a file that is not ours to replace."""
    return DeviceFault(
        "target.image.foreign",
        f"{path} is no image that birthmark made: {reason}",
        hint="Move it away if nothing needs it, or name another file; it was not changed.",
        path=str(path),
    )
