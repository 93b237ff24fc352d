"""UBI for raw NAND: a static volume ``identity`` that holds a squashfs of the identity alone, made by ubinize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.folder import Stored
from birthmark.adapters.targets.image.form import Span, base_malformed, damaged, does_not_fit
from birthmark.adapters.targets.image.identityregion import is_blank
from birthmark.adapters.targets.image.octets import Octets, pieces
from birthmark.adapters.targets.image.programs import MemoryFile, run_program, tool_failed
from birthmark.adapters.targets.image.raw import require_blank
from birthmark.adapters.targets.image.squashfs import make_squashfs, read_squashfs
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["Flash", "UbiSystem"]

# Headers of a physical erase block (Linux, drivers/mtd/ubi/ubi-media.h), big endian, 64 octets each.
_ERASE, _VOLUME, _HEADER = b"UBI#", b"UBI!", 64
_MOST_OCTETS, _MOST_BLOCKS = 1 << 20, 8

_VOLUMES = """\
[identity]
mode=ubi
image={image}
vol_id=0
vol_size={size}
vol_type=static
vol_name=identity
"""


@dataclass(frozen=True, slots=True)
class Flash:
    """Octets of a physical erase block, of the smallest write, and of the smallest write of a header."""

    block: int
    page: int
    subpage: int


class UbiSystem:
    """Implements ``FileSystem``. The part has to be erased (0xFF): UBI takes other blocks for damaged ones."""

    def __init__(self, span: Span, flash: Flash) -> None:
        self._span = span
        self._flash = flash

    def check(self, base: Base, folder: str, names: Sequence[str]) -> None:
        require_blank(base, self._span)
        offset, size = self._span.within(base)
        if size % self._flash.block or base.read(offset, 1) != b"\xff":
            raise base_malformed(base, f"a place for UBI is whole erase blocks of {self._flash.block} octets, all 0xFF")

    def put(
        self, base: Base, folder: str, files: Mapping[str, Stored], *, moment: int, fence: Fence
    ) -> tuple[int, Sequence[Region]]:
        offset, size = self._span.within(base)
        content = make_squashfs(folder, files, moment=moment, fence=fence)
        with MemoryFile() as volume, MemoryFile() as plan, MemoryFile() as made:
            volume.write(content)
            plan.write(_VOLUMES.format(image=volume.path, size=len(content)).encode("ascii"))
            arguments = ["ubinize", "-o", made.path, "-p", str(self._flash.block), "-m", str(self._flash.page)]
            arguments += ["-s", str(self._flash.subpage), "-Q", str(crc32(content)), plan.path]
            ran = run_program(arguments, files=[volume, plan, made], seconds=fence.remaining())
            data = made.read(0, made.size)
        if len(data) > size:
            raise does_not_fit(folder, len(data), size)
        if not ran.ok or self._volume(data) != content:
            raise tool_failed("ubinize", ran.complaint)
        return base.size, (Region(offset, data),)

    def get(self, image: Octets, folder: str, names: Sequence[str]) -> Mapping[str, Stored]:
        offset, size = self._span.within(image)
        header = image.read(offset, min(size, _HEADER))
        if not header.startswith(_ERASE):
            if not is_blank(header):
                raise damaged("something else than UBI lies in its region")
            return {}
        most = min(size, max(_MOST_OCTETS, _MOST_BLOCKS * self._flash.block))
        data = b"".join(piece for _, piece in pieces(image, offset, offset + most))
        with MemoryFile() as copy:
            copy.write(self._volume(data))
            return read_squashfs(copy, folder, names)

    def _volume(self, data: bytes) -> bytes:
        """Return what the static volume 0 holds, every CRC checked; ``DeviceFault`` if it is not whole."""
        parts: dict[int, bytes] = {}
        used = 0
        for at in range(0, len(data) - self._flash.block + 1, self._flash.block):
            block = data[at : at + self._flash.block]
            if is_blank(block):
                continue
            volume_at, content_at = _number(block, 16), _number(block, 20)
            header = block[volume_at : volume_at + _HEADER]
            if not _whole(block[:_HEADER], _ERASE) or not _whole(header, _VOLUME):
                raise damaged(f"the erase block at {at:#x} of its UBI is damaged")
            if _number(header, 8) != 0:
                continue
            content = block[content_at : content_at + _number(header, 20)]
            used = _number(header, 24)
            if _crc(content) != _number(header, 32) or _number(header, 12) in parts:
                raise damaged(f"the content at {at:#x} of its UBI is damaged")
            parts[_number(header, 12)] = content
        if sorted(parts) != list(range(used)):
            raise damaged("an erase block of its UBI volume is missing")
        return b"".join(parts[place] for place in sorted(parts))


def _whole(header: bytes, magic: bytes) -> bool:
    return len(header) == _HEADER and header.startswith(magic) and _crc(header[:60]) == _number(header, 60)


def _number(octets: bytes, at: int) -> int:
    return int.from_bytes(octets[at : at + 4], "big")


def _crc(octets: bytes) -> int:
    """Return the CRC-32 of UBI: that of IEEE 802.3 without its last inversion."""
    return crc32(octets) ^ 0xFFFFFFFF
