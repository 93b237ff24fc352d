"""Members of archives and directories, one at a time: small plain files with plain names, and nothing else."""

from __future__ import annotations

import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from birthmark.adapters.durable import naming_os_errors
from birthmark.adapters.received import read_received
from birthmark.adapters.vendorfiles.received import refuse_archive
from birthmark.errors import Misconfigured

__all__ = ["MEMBER_OCTETS", "directory_members", "tar_members", "zip_members"]

MEMBER_OCTETS = 64 << 10
_MAX_MEMBERS = 1_000_000
_MAX_DEPTH = 8
_CENTRAL_OCTETS = 32 << 20
_END, _END_OCTETS, _COMMENT = b"PK\x05\x06", 22, 1 << 16
_ZIP64 = b"PK\x06\x07"
_PLAIN_NAME = re.compile(r"[^\x00-\x1f\\]{1,255}")

_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
"""What ``zipfile`` raises for archives that are none; ``NotImplementedError`` for ways of packing it does not know."""

Member = tuple[str, bytes]


def _checked_name(name: str) -> str:
    parts = name.split("/")
    if not _PLAIN_NAME.fullmatch(name) or name.startswith("/") or ".." in parts or len(parts) > _MAX_DEPTH:
        raise refuse_archive(f"a member is named {name[:80]!a}, which leads out of it")
    return name


def directory_members(root: Path) -> Iterator[Member]:
    """Yield the plain files below a directory, by name. Links and hidden files are not followed."""
    count = 0
    for place, directories, names in os.walk(root, followlinks=False):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place) / name
            if path.is_symlink():
                raise refuse_archive(f"{name[:80]!a} is a link")
            count += 1
            if count > _MAX_MEMBERS:
                raise refuse_archive(f"it has more than {_MAX_MEMBERS} files")
            try:
                yield str(path.relative_to(root)), read_received(path, limit=MEMBER_OCTETS)
            except Misconfigured as problem:
                raise refuse_archive(problem.message) from problem


class _Careful:
    """A file for ``tarfile`` that hands out no more than a member's worth at once: headers name their own lengths."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 1 << 20:
            raise refuse_archive("a header is longer than any of a certificate")
        return self._file.read(size)

    def seek(self, at: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(at, whence)

    def tell(self) -> int:
        return self._file.tell()


def tar_members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members of a plain tar archive."""
    count = 0
    try:
        with tarfile.open(fileobj=_Careful(file), mode="r:") as archive:  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                archive.members = []  # it would remember every one
                name = _checked_name(info.name)
                if info.isdir():
                    continue
                if not info.isfile() or info.issparse() or info.size > MEMBER_OCTETS:
                    raise refuse_archive(f"{name[:80]!a} is no plain file of at most {MEMBER_OCTETS} octets")
                count += 1
                if count > _MAX_MEMBERS:
                    raise refuse_archive(f"it has more than {_MAX_MEMBERS} members")
                content = archive.extractfile(info)
                data = b"" if content is None else content.read(MEMBER_OCTETS)
                yield name, data
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as problem:
        raise refuse_archive(f"it is no tar archive: {str(problem)[:80]}") from None


def zip_members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members of a zip archive. Its directory is looked at before ``zipfile`` reads it into memory."""
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                name = _checked_name(info.filename)
                if info.is_dir():
                    continue
                link = (info.external_attr >> 16) & 0o170000 == 0o120000
                if link or info.flag_bits & 1 or info.file_size > MEMBER_OCTETS:
                    raise refuse_archive(f"{name[:80]!a} is no plain file of at most {MEMBER_OCTETS} octets")
                with archive.open(info) as member:
                    data = member.read(MEMBER_OCTETS + 1)
                if len(data) > MEMBER_OCTETS:
                    raise refuse_archive(f"{name[:80]!a} is longer than it says")
                yield name, data
    except _DAMAGED as fault:
        raise refuse_archive(f"it is no zip archive: {str(fault)[:80]}") from None


def _check_directory(file: IO[bytes]) -> None:
    with naming_os_errors(Path("archive")):
        size = file.seek(0, os.SEEK_END)
        tail_at = max(0, size - _END_OCTETS - _COMMENT)
        file.seek(tail_at)
        tail = file.read(_END_OCTETS + _COMMENT)
        file.seek(0)
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_OCTETS:
        raise refuse_archive("it is no zip archive")
    octets = int.from_bytes(tail[end + 12 : end + 16], "little")
    if octets > _CENTRAL_OCTETS or _ZIP64 in tail[max(0, end - 20) : end]:
        raise refuse_archive("its directory is too large for one read; use a tar archive")
