"""FAT in a part of the image, through mtools. FAT keeps neither modes nor owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.folder import LONGEST_FILE, Stored, parents
from birthmark.adapters.targets.image.form import Span, base_malformed, damaged, occupied
from birthmark.adapters.targets.image.octets import Octets
from birthmark.adapters.targets.image.programs import MemoryFile, run_program, tool_failed
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["FatSystem"]


class FatSystem:
    """Implements ``FileSystem`` on FAT12, FAT16 and FAT32."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def check(self, base: Base, folder: str, names: Sequence[str]) -> None:
        self._missing(base, folder, names)

    def put(
        self, base: Base, folder: str, files: Mapping[str, Stored], *, moment: int, fence: Fence
    ) -> tuple[int, Sequence[Region]]:
        offset, size = self._span.within(base)
        missing = self._missing(base, folder, list(files))
        with MemoryFile(base, offset, size) as image:
            if missing:
                made = ["mmd", "-i", image.path, *(f"::{path}" for path in missing)]
                ran = run_program(made, files=[image], seconds=fence.remaining(), moment=moment)
                if not ran.ok:
                    raise tool_failed("mmd", ran.complaint)
            for name, file in files.items():
                copied = ["mcopy", "-i", image.path, "-", f"::{folder}/{name}"]
                ran = run_program(copied, files=[image], typed=file.data, seconds=fence.remaining(), moment=moment)
                if not ran.ok:
                    raise tool_failed("mcopy", ran.complaint)
            if self._files(image, folder, list(files)) != {name: file.data for name, file in files.items()}:
                raise tool_failed("mcopy", "what it copied is not what is there")
            return base.size, image.changes(base, offset)

    def get(self, image: Octets, folder: str, names: Sequence[str]) -> Mapping[str, Stored]:
        offset, size = self._span.within(image)
        with MemoryFile(image, offset, size) as copy:
            return {name: Stored(data, None) for name, data in self._files(copy, folder, names).items()}

    def _missing(self, base: Base, folder: str, names: Sequence[str]) -> list[str]:
        """Return the folders that have to be made; refuse a base that has one of the files already."""

        def look() -> tuple[list[str], list[str]]:
            offset, size = self._span.within(base)
            with MemoryFile(base, offset, size) as copy:
                if _listed(copy, "/") is None:
                    raise base_malformed(base, f"there is no FAT at {offset:#x}")
                missing = [path for path in parents(folder) if _listed(copy, path) is None]
                there = _listed(copy, folder) or set()
                return missing, [name for name in names if name.lower() in there]

        missing, there = base.remember(("fat", self._span, folder, tuple(sorted(names))), look)
        if there:
            raise occupied(base, f"{folder}/{there[0]}")
        return missing

    def _files(self, image: MemoryFile, folder: str, names: Sequence[str]) -> dict[str, bytes]:
        there = _listed(image, folder) or set()
        files = {}
        for name in names:
            if name.lower() not in there:
                continue
            ran = run_program(["mtype", "-i", image.path, f"::{folder}/{name}"], files=[image])
            if not ran.ok or len(ran.output) > LONGEST_FILE:
                raise damaged(f"{folder}/{name} cannot be read: {ran.complaint}")
            files[name] = ran.output
        return files


def _listed(image: MemoryFile, folder: str) -> set[str] | None:
    """Return the names in a folder in lower case, FAT does not tell them apart; None if there is no such folder."""
    ran = run_program(["mdir", "-b", "-a", "-i", image.path, f"::{folder}"], files=[image])
    if not ran.ok:
        return None
    lines = ran.output.decode("utf-8", "replace").splitlines()
    return {line.rstrip("/").rpartition("/")[2].lower() for line in lines}
