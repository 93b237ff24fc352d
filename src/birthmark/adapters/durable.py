"""Files that are either the old ones or the new ones, whatever happens in between, and failures with a name."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from birthmark.errors import Misconfigured, StationFault

__all__ = [
    "create_durably",
    "destroy_durably",
    "fill_durably",
    "naming_os_errors",
    "read_private_file",
    "sync_directory",
    "sync_file_system",
    "sync_path",
    "write_durably",
]

_STORAGE: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("storage.full", "Free disk space, then run the same command again."),
    errno.EDQUOT: ("storage.full", "Free disk space or raise the quota, then run the same command again."),
    errno.EROFS: ("storage.read_only", "Make the directory writable for this user."),
    errno.EACCES: ("storage.read_only", "Make the directory writable for this user."),
    errno.EPERM: ("storage.read_only", "Make the directory writable for this user."),
    errno.ENOENT: ("storage.missing", "Make the directory, or name another one."),
    errno.ENOTDIR: ("storage.missing", "Make the directory, or name another one."),
}
_FAILED = ("storage.failed", "Check the disk; what was being written does not count.")


@contextmanager
def naming_os_errors(path: Path, *, passing: tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Turn ``OSError`` into ``StationFault``: ``storage.full``, ``.read_only``, ``.missing`` or ``.failed``.

    Those in ``passing`` are answers to the caller and stay what they are.
    """
    try:
        yield
    except passing:
        raise
    except OSError as problem:
        code, hint = _STORAGE.get(problem.errno or 0, _FAILED)
        raise StationFault(
            code,  # one of storage.full, storage.read_only, storage.missing, storage.failed
            f"{path}: {problem.strerror or problem}",
            hint=hint,
            path=str(path),
        ) from problem


def sync_path(path: Path) -> None:
    """Make the content of a file, or the names in a directory, durable."""
    with naming_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Make everything on the file system of ``path`` durable (syncfs(2); it reports failed writes since Linux 5.8)."""
    library = ctypes.CDLL(None, use_errno=True)
    with naming_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if library.syncfs(descriptor) != 0:
                failure = ctypes.get_errno()
                raise OSError(failure, os.strerror(failure))
        finally:
            os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    with naming_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_durably(path: Path, data: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replace ``path`` by a file with this content, mode and owner (uid, gid); durable on return.

    Power cut: the old file or the new one, never a mixture; at worst a temporary file ``.NAME.tmp`` is left, which
    the next write replaces. Several writers: one after the other. The content never exists under a wider mode.
    """
    with _temporary(path, partial(_write_all, data), mode, owner) as temporary, naming_os_errors(path):
        os.replace(temporary, path)
    sync_directory(path.parent)


def fill_durably(path: Path, fill: Callable[[int], None], *, mode: int) -> None:
    """As ``write_durably``, with content that ``fill`` writes to the descriptor that it is given.

    What ``fill`` raises goes through, and ``path`` is what it was.
    """
    with _temporary(path, fill, mode, None) as temporary, naming_os_errors(path):
        os.replace(temporary, path)
    sync_directory(path.parent)


def create_durably(path: Path, data: bytes, *, mode: int) -> None:
    """As ``write_durably``, but an existing ``path`` is kept and ``FileExistsError`` raised."""
    with (
        _temporary(path, partial(_write_all, data), mode, None) as temporary,
        naming_os_errors(path, passing=(FileExistsError,)),
    ):
        os.link(temporary, path)
        temporary.unlink()
    sync_directory(path.parent)


def destroy_durably(path: Path) -> bool:
    """Overwrite a file with zeros, then remove its name; say whether there was one. Durable on return.

    Power cut: the file as it was, with zeros in it, or gone; the same call again finishes. A drive that writes to other
    cells than it read from (flash), a journal, a snapshot or a backup may keep the old content: this cannot reach it.
    """
    with naming_os_errors(path, passing=(FileNotFoundError,)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a plain file")
            written = 0
            while written < status.st_size:
                written += os.pwrite(descriptor, bytes(status.st_size - written), written)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.unlink()
    sync_directory(path.parent)
    return True


@contextmanager
def _temporary(path: Path, fill: Callable[[int], None], mode: int, owner: tuple[int, int] | None) -> Iterator[Path]:
    """Yield a synced temporary file beside ``path`` that is ours alone; it is gone when something fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    with naming_os_errors(path):
        descriptor = _own_file(temporary)
    try:
        with naming_os_errors(path):
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            fill(descriptor)
            os.fsync(descriptor)
        yield temporary
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


def _write_all(data: bytes, descriptor: int) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)


def _own_file(temporary: Path) -> int:
    """Return the descriptor of a new file under this name, locked as long as it is open.

    What another writer works on is waited for; what a dead one left is removed: it may be a second name of a file
    that counts.
    """
    while True:
        with suppress(FileExistsError):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, temporary):
                return descriptor
            os.close(descriptor)
            continue
        _remove_abandoned(temporary)


def _remove_abandoned(temporary: Path) -> None:
    """Wait for who works on this file; remove it if it is still there then."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as problem:
        if problem.errno != errno.ELOOP:
            raise
        temporary.unlink(missing_ok=True)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, temporary):
            temporary.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Say whether this open file is the one that has this name now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def read_private_file(path: Path) -> bytes:
    """Return the content of a file that only its owner can read, else ``Misconfigured("key.file.mode")``.

    ``key.file.missing`` if it cannot be opened, ``key.file.malformed`` if it is a directory, a pipe or a device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise Misconfigured(
            "key.file.missing",
            f"cannot read {str(path)!r}: {getattr(problem, 'strerror', problem)}",
            hint="Check the path in birthmark.toml and who may read it.",
            path=str(path),
        ) from problem
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Misconfigured(
                "key.file.malformed",
                f"{path} is not a plain file",
                hint="Name a plain file; for a pipe use fd:NUMBER.",
                path=str(path),
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise Misconfigured(
                "key.file.mode",
                f"{path} has the mode {mode:04o}: others can read it",
                hint=f"Run: chmod 600 {path}",
                path=str(path),
            )
        with naming_os_errors(path), os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)
