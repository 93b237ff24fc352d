"""Making a whole image of a base and a delta: a new file, or a medium that holds the base already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors
from birthmark.adapters.received import read_received
from birthmark.adapters.targets.image.bases import Base, Store, open_base
from birthmark.adapters.targets.image.octets import FileOctets, Overlay, pieces
from birthmark.adapters.targets.image.output import write_whole
from birthmark.errors import Misconfigured, Refused
from birthmark.wire.imagedelta import MAX_DELTA_OCTETS, Delta, decode_delta

__all__ = ["STORE", "Assembly", "open_delta"]

STORE = "bases"
"""Where the bases lie, beside the deltas, if nothing else is said."""

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Assembly:
    """A delta and its base, found and checked."""

    delta: Delta
    base: Base

    def to_file(self, output: Path) -> None:
        """Put the whole image at ``output``, mode 0600, or nothing; durable on return."""
        delta = self.delta
        write_whole(output, self.base, delta.size, delta.regions)

    def onto(self, medium: Path) -> int:
        """Write to a file or block device that holds the base only what differs; return how many octets were written.

        Looks at all of it first. Each block has to be that of the base or that of the image, so a call that was cut
        off is taken up again; whatever else is there is ``Refused("image.medium.differs")`` and nothing is written.
        """
        with naming_os_errors(medium):
            mounted_refused = os.O_EXCL if medium.is_block_device() else 0
            descriptor = os.open(medium, os.O_RDWR | os.O_CLOEXEC | mounted_refused)
        found = FileOctets(medium, descriptor)
        wanted = Overlay(self.base, self.delta.size, self.delta.regions)
        with naming_os_errors(medium):
            end = os.lseek(descriptor, 0, os.SEEK_END)
        if end < self.delta.size:
            raise _differs(medium, end)
        missing: list[tuple[int, bytes]] = []
        for at, piece in pieces(wanted, 0, self.delta.size):
            there = found.read(at, len(piece))
            if there != piece:
                missing += self._to_write(medium, at, there, piece)
        with naming_os_errors(medium):
            with os.fdopen(descriptor, "r+b", closefd=False) as file:
                for at, data in missing:
                    file.seek(at)
                    file.write(data)
            os.fsync(descriptor)
        return sum(len(data) for _, data in missing)

    def _to_write(self, medium: Path, offset: int, there: bytes, wanted: bytes) -> list[tuple[int, bytes]]:
        blocks = []
        for at in range(0, len(wanted), _BLOCK):
            old, new = there[at : at + _BLOCK], wanted[at : at + _BLOCK]
            if old == new:
                continue
            known = max(0, min(len(new), self.base.size - offset - at))
            if old != (self.base.read(offset + at, known) if known else b"") + bytes(len(new) - known):
                raise _differs(medium, offset + at)
            blocks.append((offset + at, new))
        return blocks


def open_delta(path: Path, *, base: Path | None, store: Path | None) -> Assembly:
    """Read a delta and find its base: the file ``base``, or in the directory ``store`` (default: beside the delta).

    Raises ``Tampered("image.delta.malformed")``, ``Misconfigured("image.delta.base")`` if ``base`` is another image,
    and what ``Store.find`` does.
    """
    delta = decode_delta(read_received(path, limit=MAX_DELTA_OCTETS))
    if base is None:
        return Assembly(delta, Store(store or path.parent / STORE).find(delta.base_sha256))
    opened = open_base(base)
    if opened.sha256 != delta.base_sha256:
        raise Misconfigured(
            "image.delta.base",
            f"{path} was not made from {base}",
            hint="Name the base image whose SHA-256 stands in the delta.",
            wanted=delta.base_sha256,
            found=opened.sha256,
        )
    return Assembly(delta, opened)


def _differs(medium: Path, offset: int) -> Refused:
    return Refused(
        "image.medium.differs",
        f"{medium} does not hold the base of this delta at {offset:#x}",
        hint="Write the base image to it first, or check that it is the right medium; nothing was written.",
        path=str(medium),
        offset=offset,
    )
