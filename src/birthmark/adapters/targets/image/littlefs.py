"""littlefs in a part of the image, through the reference implementation (littlefs-python)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from birthmark.adapters.extras import require_extra
from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.folder import LONGEST_FILE, Stored
from birthmark.adapters.targets.image.form import Span, base_malformed, damaged, does_not_fit, occupied
from birthmark.adapters.targets.image.octets import Octets, differences
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["LittlefsSystem"]

_PROGRAM_OCTETS = 256
"""What is written at once; a driver with a smaller unit reads it as well (littlefs SPEC, metadata padding)."""
_NO_ENTRY, _NO_SPACE = -2, -28


class _Blocks:
    """The block device of littlefs-python: reads from the image, keeps what is written apart from it."""

    def __init__(self, octets: Octets, offset: int) -> None:
        self.octets = octets
        self.offset = offset
        self.written: dict[int, bytearray] = {}

    def read(self, config: Any, block: int, off: int, size: int) -> bytearray:
        if block in self.written:
            return self.written[block][off : off + size]
        return bytearray(self.octets.read(self.offset + block * config.block_size + off, size))

    def prog(self, config: Any, block: int, off: int, data: bytes) -> int:
        if block not in self.written:
            self.written[block] = bytearray(
                self.octets.read(self.offset + block * config.block_size, config.block_size)
            )
        self.written[block][off : off + len(data)] = data
        return 0

    def erase(self, config: Any, block: int) -> int:
        self.written[block] = bytearray(b"\xff" * config.block_size)
        return 0

    def sync(self, config: Any) -> int:
        return 0


class LittlefsSystem:
    """Implements ``FileSystem``. ``block``: octets of a block. littlefs keeps neither modes, owners nor times."""

    def __init__(self, span: Span, block: int) -> None:
        self._span = span
        self._block = block

    def check(self, base: Base, folder: str, names: Sequence[str]) -> None:
        found = base.remember(
            ("littlefs", self._span, self._block, folder, names), lambda: self._found(base, folder, names)
        )
        if found:
            raise occupied(base, f"{folder}/{found[0]}")

    def _found(self, base: Base, folder: str, names: Sequence[str]) -> list[str]:
        return list(self.get(base, folder, names))

    def put(
        self, base: Base, folder: str, files: Mapping[str, Stored], *, moment: int, fence: Fence
    ) -> tuple[int, Sequence[Region]]:
        with self._mounted(base) as (system, blocks):
            from littlefs import LittleFSError

            try:
                system.makedirs(folder, exist_ok=True)
                for name, file in files.items():
                    with system.open(f"{folder}/{name}", "wb") as opened:
                        opened.write(file.data)
            except LittleFSError as problem:
                if problem.code != _NO_SPACE:
                    raise base_malformed(base, f"littlefs: {problem}") from None
                needed = sum(len(file.data) for file in files.values())
                raise does_not_fit(folder, needed, system.block_count * self._block) from None
        regions: list[Region] = []
        for number, data in sorted(blocks.written.items()):
            offset = blocks.offset + number * self._block
            regions += differences(base.read(offset, self._block), bytes(data), offset)
        return base.size, regions

    def get(self, image: Octets, folder: str, names: Sequence[str]) -> Mapping[str, Stored]:
        found: dict[str, Stored] = {}
        with self._mounted(image) as (system, blocks):
            from littlefs import LittleFSError

            for name in names:
                try:
                    size = min(system.stat(f"{folder}/{name}").size, LONGEST_FILE)
                    with system.open(f"{folder}/{name}", "rb") as opened:
                        found[name] = Stored(opened.read(size), None)
                except (LittleFSError, OSError) as problem:
                    if getattr(problem, "code", None) == _NO_ENTRY:
                        continue
                    raise damaged(f"littlefs cannot read {folder}/{name}: {problem}") from None
        if blocks.written:
            raise damaged("littlefs had to repair it")
        return found

    @contextmanager
    def _mounted(self, octets: Octets) -> Iterator[tuple[Any, _Blocks]]:
        require_extra("images", "littlefs")
        from littlefs import LittleFS, LittleFSError

        offset, size = self._span.within(octets)
        blocks = _Blocks(octets, offset)
        system = LittleFS(
            blocks,  # type: ignore[arg-type]
            mount=False,
            block_size=self._block,
            block_count=size // self._block,
            read_size=_PROGRAM_OCTETS,
            prog_size=_PROGRAM_OCTETS,
            cache_size=_PROGRAM_OCTETS,
        )
        try:
            system.mount()
        except LittleFSError as problem:
            raise base_malformed(octets, f"there is no littlefs of {size} octets at {offset:#x}: {problem}") from None
        try:
            yield system, blocks
        finally:
            system.unmount()
