"""ext4 in a part of the image, without root rights: debugfs of e2fsprogs writes, modes and owners included."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.folder import LONGEST_FILE, Owned, Stored, parents
from birthmark.adapters.targets.image.form import Span, base_malformed, damaged, occupied
from birthmark.adapters.targets.image.octets import Octets
from birthmark.adapters.targets.image.programs import READING_S, MemoryFile, run_program, tool_failed
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["Ext4System"]

# The superblock (kernel documentation, filesystems/ext4/super.rst), little endian, 1024 octets from the start.
_SUPERBLOCK, _SUPERBLOCK_OCTETS = 1024, 1024
_MAGIC_AT, _STATE_AT, _INCOMPATIBLE_AT = 56, 58, 96
_MAGIC, _CLEAN, _ERRORS, _NEEDS_RECOVERY = 0xEF53, 1, 2, 4

_STAT = re.compile(
    r"Type: (?P<type>\S+)\s+Mode:\s+(?P<mode>[0-7]+).*?User:\s+(?P<uid>\d+)\s+Group:\s+(?P<gid>\d+)", re.DOTALL
)
_PROMPT = "debugfs: "


class Ext4System:
    """Implements ``FileSystem`` on ext4 (and ext2, ext3)."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def check(self, base: Base, folder: str, names: Sequence[str]) -> None:
        self._missing(base, folder, names)

    def put(
        self, base: Base, folder: str, files: Mapping[str, Stored], *, moment: int, fence: Fence
    ) -> tuple[int, Sequence[Region]]:
        offset, size = self._span.within(base)
        with ExitStack() as stack:
            image = stack.enter_context(MemoryFile(base, offset, size))
            commands = [
                f"set_current_time @{moment}",
                *(f"mkdir {one}" for one in self._missing(base, folder, list(files))),
            ]
            sources = []
            for name, file in files.items():
                source = stack.enter_context(MemoryFile())
                source.write(file.data)
                sources.append(source)
                path, owned = f"{folder}/{name}", file.owned or Owned(0o600)
                commands += [
                    f"write {source.path} {path}",
                    f"sif {path} mode 0100{owned.mode:03o}",
                    f"sif {path} uid {owned.uid}",
                    f"sif {path} gid {owned.gid}",
                ]
            _debugfs(image, commands, sources, writing=True, seconds=fence.remaining())
            if self._files(image, folder, list(files)) != files:
                raise tool_failed("debugfs", f"the files are not in {folder}; is there space left?")
            return base.size, image.changes(base, offset)

    def get(self, image: Octets, folder: str, names: Sequence[str]) -> Mapping[str, Stored]:
        offset, size = self._span.within(image)
        _require_clean(image, offset, size)
        with MemoryFile(image, offset, size) as copy:
            return self._files(copy, folder, names)

    def _missing(self, base: Base, folder: str, names: Sequence[str]) -> list[str]:
        """Return the folders that have to be made; refuse a base that has one of the files already."""

        def look() -> tuple[list[str], list[str]]:
            offset, size = self._span.within(base)
            _require_clean(base, offset, size)
            with MemoryFile(base, offset, size) as copy:
                found = _stats(copy, parents(folder))
                wrong = [path for path, (kind, _) in found.items() if kind != "directory"]
                if wrong:
                    raise base_malformed(base, f"{wrong[0]} in it is not a directory")
                there = _stats(copy, [f"{folder}/{name}" for name in names]) if folder in found else {}
                return [path for path in parents(folder) if path not in found], list(there)

        missing, there = base.remember(("ext4", self._span, folder, tuple(sorted(names))), look)
        if there:
            raise occupied(base, there[0])
        return missing

    def _files(self, image: MemoryFile, folder: str, names: Sequence[str]) -> dict[str, Stored]:
        """Return those of the files that are there."""
        found = _stats(image, [f"{folder}/{name}" for name in names])
        with ExitStack() as stack:
            copies = {path: stack.enter_context(MemoryFile()) for path in found}
            _debugfs(image, [f"dump {path} {copy.path}" for path, copy in copies.items()], list(copies.values()))
            files = {}
            for path, copy in copies.items():
                kind, owned = found[path]
                if kind != "regular" or copy.size > LONGEST_FILE:
                    raise damaged(f"{path} is not a small plain file")
                files[path.rpartition("/")[2]] = Stored(copy.read(0, copy.size), owned)
            return files


def _stats(image: MemoryFile, paths: Sequence[str]) -> dict[str, tuple[str, Owned]]:
    """Return (type, mode and owner) of those of ``paths`` that exist."""
    printed = _debugfs(image, [f"stat {path}" for path in paths], [])
    found = {}
    for answer in printed.split(_PROMPT)[1:]:
        command, _, told = answer.partition("\n")
        match = _STAT.search(told)
        if match is not None:
            owned = Owned(int(match["mode"], 8), int(match["uid"]), int(match["gid"]))
            found[command.removeprefix("stat ")] = (match["type"], owned)
    return found


def _debugfs(
    image: MemoryFile,
    commands: Sequence[str],
    files: Sequence[MemoryFile],
    *,
    writing: bool = False,
    seconds: float = READING_S,
) -> str:
    """Return what debugfs prints to these commands; it says of no single one whether it failed."""
    arguments = ["debugfs", *(["-w"] if writing else []), "-f", "-", image.path]
    typed = "".join(f"{command}\n" for command in commands).encode("ascii")
    ran = run_program(arguments, files=[image, *files], typed=typed, seconds=seconds)
    if not ran.ok:
        raise tool_failed("debugfs", ran.complaint)
    return ran.output.decode("utf-8", "replace")


def _require_clean(octets: Octets, offset: int, size: int) -> None:
    """Refuse what is no ext4, or what was not unmounted: its journal would undo what is written beside it."""
    if size < _SUPERBLOCK + _SUPERBLOCK_OCTETS:
        raise base_malformed(octets, "it is too small for ext4")
    block = octets.read(offset + _SUPERBLOCK, _SUPERBLOCK_OCTETS)

    def number(at: int, length: int) -> int:
        return int.from_bytes(block[at : at + length], "little")

    if number(_MAGIC_AT, 2) != _MAGIC:
        raise base_malformed(octets, f"there is no ext4 at {offset:#x}")
    state = number(_STATE_AT, 2)
    if not state & _CLEAN or state & _ERRORS or number(_INCOMPATIBLE_AT, 4) & _NEEDS_RECOVERY:
        raise base_malformed(octets, "its ext4 was not unmounted in order; run e2fsck on it")
