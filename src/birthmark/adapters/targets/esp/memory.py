"""Regions of a device's flash: each a file of its own, or all of them slices of one flash image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from birthmark.adapters.targets.directory import Directory, Found, Permissions
from birthmark.errors import DeviceFault, StationFault

__all__ = ["LARGEST_FLASH", "DeviceMemory", "Region"]

LARGEST_FLASH = 1 << 25
"""Octets of the largest flash image that is read."""

_PRIVATE = Permissions(0o600)
_ERASED = b"\xff"


@dataclass(frozen=True, slots=True)
class Region:
    """A partition. ``file`` holds it where there is no flash image; ``offset`` is its place in the flash.

    ``marks``: how one that is in use begins.
    """

    file: str
    offset: int
    size: int
    marks: tuple[bytes, ...] = ()


class DeviceMemory:
    """What a programmer would flash. Every file that holds a region has mode 0600.

    ``flash``: name of the flash image in ``directory``, None for a file a region. Writing all regions of one image is
    one act; files are written in the order they are given in, so the last one is the commit point.
    """

    def __init__(self, directory: Directory, flash: str | None) -> None:
        self._directory = directory
        self._flash = flash

    def read(self, region: Region) -> bytes | None:
        """Return a region; None if nothing is there yet. ``DeviceFault("target.partition.size")``."""
        if self._flash is not None:
            return self._image(region).data[region.offset : region.offset + region.size]
        found = self._directory.read(region.file)
        if found is not None and len(found.data) != region.size:
            raise DeviceFault(
                "target.partition.size",
                f"{region.file} has {len(found.data)} octets, the partition {region.size}",
                hint="Correct size= in the target, or remove the file and provision the device again.",
                file=region.file,
                octets=len(found.data),
            )
        return None if found is None else found.data

    def is_private(self, region: Region) -> bool:
        """Say whether nobody but the owner can read what holds the region."""
        found = self._directory.read(self._flash or region.file)
        return found is not None and found.has(_PRIVATE)

    def write(self, contents: Mapping[Region, bytes]) -> None:
        """Make the regions hold this, and touch nothing else; what already does is only made durable."""
        if self._flash is None:
            for region, data in contents.items():
                self._put(region.file, data)
            return
        image = bytearray(self._image(*contents).data)
        for region, data in contents.items():
            place = slice(region.offset, region.offset + region.size)
            if image[place] != data:
                self._require_free(region, bytes(image[place]))
                image[place] = data
        self._put(self._flash, bytes(image))

    def _require_free(self, region: Region, data: bytes) -> None:
        if data.strip(_ERASED) and not data.startswith(region.marks):
            raise DeviceFault(
                "target.flash.occupied",
                f"something else stands at 0x{region.offset:X} of {self._flash}",
                hint="Correct offset= by the partition table of the firmware; nothing was written.",
                file=self._flash or "",
                offset=region.offset,
            )

    def _put(self, file: str, data: bytes) -> None:
        found = self._directory.read(file)
        if found is not None and found.data == data and found.has(_PRIVATE):
            self._directory.sync(file)
        else:
            self._directory.write(file, data, _PRIVATE)

    def _image(self, *regions: Region) -> Found:
        name = self._flash or ""
        found = self._directory.read(name)
        if found is None:
            raise StationFault(
                "target.flash.missing",
                f"there is no flash image {name} in the directory of the device",
                hint="Put the image with the firmware there first; birthmark adds the identity to it.",
                file=name,
            )
        needed = max(region.offset + region.size for region in regions)
        if len(found.data) < needed:
            raise DeviceFault(
                "target.flash.size",
                f"{name} has {len(found.data)} octets, the partition ends at {needed}",
                hint="Pad the image to the size of the flash (`esptool merge-bin --pad-to-size`), or correct offset=.",
                file=name,
                octets=len(found.data),
            )
        return found
