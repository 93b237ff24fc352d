"""Finding a partition of a disk image: GPT (UEFI 2.10, chapter 5) and MBR, sectors of 512 octets."""

from __future__ import annotations

from zlib import crc32

from birthmark.adapters.targets.image.octets import Octets
from birthmark.errors import Misconfigured

__all__ = ["find_partition"]

_SECTOR = 512
_GPT = b"EFI PART"
_PROTECTIVE = 0xEE
_MOST_ENTRIES, _LARGEST_ENTRY = 1024, 4096
_FIRST_ENTRY, _ENTRY = 446, 16


def find_partition(octets: Octets, number: int) -> tuple[int, int]:
    """Return (offset, size) in octets of partition ``number``, from 1 as ``sfdisk`` counts.

    ``Misconfigured("target.image.partition")`` if there is none, or no table that can be trusted.
    """
    if octets.size < 34 * _SECTOR:
        raise _none(number, "the image is too small for a table")
    boot = octets.read(0, _SECTOR)
    if boot[510:] != b"\x55\xaa":
        raise _none(number, "the image has no partition table")
    entries = [boot[at : at + _ENTRY] for at in range(_FIRST_ENTRY, 510, _ENTRY)]
    if any(entry[4] == _PROTECTIVE for entry in entries):
        first, sectors = _in_gpt(octets, number)
    elif number <= len(entries) and entries[number - 1][4] != 0:
        entry = entries[number - 1]
        first, sectors = int.from_bytes(entry[8:12], "little"), int.from_bytes(entry[12:16], "little")
    else:
        raise _none(number, "the table has no primary partition with this number")
    if first == 0 or sectors <= 0 or (first + sectors) * _SECTOR > octets.size:
        raise _none(number, "it does not lie inside the image")
    return first * _SECTOR, sectors * _SECTOR


def _in_gpt(octets: Octets, number: int) -> tuple[int, int]:
    header = octets.read(_SECTOR, 92)

    def field(at: int, length: int) -> int:
        return int.from_bytes(header[at : at + length], "little")

    checked = header[:16] + bytes(4) + header[20:]
    at, count, size = field(72, 8) * _SECTOR, field(80, 4), field(84, 4)
    sane = 0 < count <= _MOST_ENTRIES and 128 <= size <= _LARGEST_ENTRY and at + count * size <= octets.size
    if not header.startswith(_GPT) or field(12, 4) != len(header) or crc32(checked) != field(16, 4) or not sane:
        raise _none(number, "the header of its GPT is damaged")
    table = octets.read(at, count * size)
    if crc32(table) != field(88, 4):
        raise _none(number, "the entries of its GPT are damaged")
    entry = table[(number - 1) * size : number * size]
    if not any(entry[:16]):
        raise _none(number, "the table has no partition with this number")
    first, last = int.from_bytes(entry[32:40], "little"), int.from_bytes(entry[40:48], "little")
    return first, last - first + 1


def _none(number: int, reason: str) -> Misconfigured:
    return Misconfigured(
        "target.image.partition",
        f"partition {number} cannot be used: {reason}",
        hint="Look at the image with `sfdisk -l`; or give offset= and size= instead.",
        partition=number,
    )
