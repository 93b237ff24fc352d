"""A small squashfs of the identity alone in a blank part of the image, to be mounted over the root file system."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping, Sequence

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.folder import LONGEST_FILE, Owned, Stored, parents
from birthmark.adapters.targets.image.form import Span, damaged, does_not_fit
from birthmark.adapters.targets.image.identityregion import is_blank
from birthmark.adapters.targets.image.octets import Octets
from birthmark.adapters.targets.image.programs import MemoryFile, run_program, tool_failed
from birthmark.adapters.targets.image.raw import require_blank
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["SquashfsSystem", "make_squashfs", "read_squashfs"]

# The superblock (squashfs 4.0, kernel documentation filesystems/squashfs.rst): magic first, octets used at 40.
_MAGIC, _HEADER_OCTETS, _USED_AT = b"hsqs", 96, 40
_LINE = re.compile(
    r"(?P<kind>.)(?P<rights>[rwx-]{9}) (?P<uid>\d+)/(?P<gid>\d+) +(?P<size>\d+) \S+ \S+ squashfs-root(?P<path>/\S+)"
)


class SquashfsSystem:
    """Implements ``FileSystem``."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def check(self, base: Base, folder: str, names: Sequence[str]) -> None:
        require_blank(base, self._span)

    def put(
        self, base: Base, folder: str, files: Mapping[str, Stored], *, moment: int, fence: Fence
    ) -> tuple[int, Sequence[Region]]:
        offset, size = self._span.within(base)
        data = make_squashfs(folder, files, moment=moment, fence=fence)
        if len(data) > size:
            raise does_not_fit(folder, len(data), size)
        return base.size, (Region(offset, data),)

    def get(self, image: Octets, folder: str, names: Sequence[str]) -> Mapping[str, Stored]:
        offset, size = self._span.within(image)
        header = image.read(offset, min(size, _HEADER_OCTETS))
        if not header.startswith(_MAGIC):
            if not is_blank(header):
                raise damaged("something else than squashfs lies in its region")
            return {}
        used = int.from_bytes(header[_USED_AT : _USED_AT + 8], "little")
        if used > size:
            raise damaged("its squashfs is longer than its region")
        with MemoryFile(image, offset, used) as copy:
            return read_squashfs(copy, folder, names)


def make_squashfs(folder: str, files: Mapping[str, Stored], *, moment: int, fence: Fence) -> bytes:
    """Return a squashfs of these files alone, the same octets for the same files."""
    with MemoryFile() as made:
        arguments = ["mksquashfs", "-", made.path, "-tar", "-noappend", "-no-progress", "-quiet", "-no-xattrs"]
        arguments += ["-comp", "gzip", "-processors", "1", "-mem", "16M", "-root-mode", "0755"]
        arguments += ["-mkfs-time", str(moment), "-all-time", str(moment)]
        archive = _archive(folder, files, moment)
        # It refuses a time of its own beside SOURCE_DATE_EPOCH.
        ran = run_program(arguments, files=[made], typed=archive, seconds=fence.remaining(), moment=None)
        if not ran.ok or read_squashfs(made, folder, list(files)) != files:
            raise tool_failed("mksquashfs", ran.complaint)
        return made.read(0, made.size)


def read_squashfs(image: MemoryFile, folder: str, names: Sequence[str]) -> dict[str, Stored]:
    """Return those of the files that are there; ``DeviceFault`` for what is no squashfs."""
    ran = run_program(["unsquashfs", "-lln", image.path], files=[image])
    if not ran.ok:
        raise damaged(f"unsquashfs cannot read it: {ran.complaint}")
    found = {}
    for line in ran.output.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        name = "" if match is None else match["path"].removeprefix(f"{folder}/")
        if match is None or name not in names:
            continue
        if match["kind"] != "-" or int(match["size"]) > LONGEST_FILE:
            raise damaged(f"{folder}/{name} is not a small plain file")
        ran = run_program(["unsquashfs", "-cat", image.path, match["path"].lstrip("/")], files=[image])
        if not ran.ok:
            raise damaged(f"unsquashfs cannot read {folder}/{name}: {ran.complaint}")
        found[name] = Stored(ran.output, Owned(_mode(match["rights"]), int(match["uid"]), int(match["gid"])))
    return found


def _archive(folder: str, files: Mapping[str, Stored], moment: int) -> bytes:
    """Return the files as a tar archive (ustar), which is what mksquashfs reads without a directory on a disk."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in parents(folder):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, moment
            archive.addfile(entry)
        for name, file in files.items():
            owned = file.owned or Owned(0o600)
            entry = tarfile.TarInfo(f"{folder}/{name}".lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(file.data), owned.mode, moment
            entry.uid, entry.gid = owned.uid, owned.gid
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()


def _mode(rights: str) -> int:
    return sum(1 << (8 - place) for place, letter in enumerate(rights) if letter != "-")
