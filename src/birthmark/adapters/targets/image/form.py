"""How an identity lies in an image: what every format can do, and what they refuse alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography import x509

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.octets import Octets
from birthmark.adapters.targets.image.partitions import find_partition
from birthmark.errors import DeviceFault, Misconfigured, Refused
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["Identity", "ImageForm", "Span", "base_malformed", "damaged", "does_not_fit", "occupied"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What is put into an image. ``certificates``: of the device, issuing CA, and so on upwards."""

    device_serial: str
    key: Any
    certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the image: ``size`` octets (None: all that follow) from ``offset`` on, counted within a partition."""

    offset: int = 0
    size: int | None = None
    partition: int | None = None

    def within(self, octets: Octets) -> tuple[int, int]:
        """Return (offset, size) in this image; ``Misconfigured("target.image.region")`` if it goes over the end."""
        start, space = (0, octets.size) if self.partition is None else find_partition(octets, self.partition)
        size = space - self.offset if self.size is None else self.size
        if size <= 0 or self.offset + size > space:
            raise Misconfigured(
                "target.image.region",
                f"the region of {size:#x} octets at {self.offset:#x} does not lie inside the {space:#x} octets there",
                hint="Correct offset= and size=: both are octets, decimal or 0x-hexadecimal.",
                offset=self.offset,
                size=size,
                space=space,
            )
        return start + self.offset, size


class ImageForm(Protocol):
    """One format. An image is made from its base each time, never from an earlier image.

    ``check_base`` returns if an identity can be put into the base, without writing anything. ``compose`` returns the
    size of the image and how it differs from the base, the same octets for the same identity. ``read`` returns what is
    installed, None if there is nothing, or the ``DeviceFault`` that says what is wrong with it.
    """

    def check_base(self, base: Base) -> None: ...

    def compose(self, base: Base, identity: Identity, fence: Fence) -> tuple[int, Sequence[Region]]: ...

    def read(self, image: Octets) -> Identity | None: ...


def occupied(base: Base, what: str) -> Misconfigured:
    """Return the error of a base that holds something where the identity goes."""
    return Misconfigured(
        "target.image.base.occupied",
        f"the base image holds {what} where the identity goes",
        hint="Take a base that was never given an identity, or name another place; nothing was written.",
        path=str(base.path),
    )


def base_malformed(base: Octets, what: str) -> Misconfigured:
    """Return the error of a base that is not of the format that was named."""
    return Misconfigured(
        "target.image.base.malformed",
        f"the base image cannot be used: {what}",
        hint="Check format=, offset= and size= against how the image was built.",
        path=str(getattr(base, "path", "")),
    )


def does_not_fit(device_serial: str, octets: int, space: int) -> Refused:
    """Return the refusal of an identity that is larger than its place."""
    return Refused(
        "target.image.space",
        f"the identity of {device_serial} needs {octets} octets, and there is space for {space}",
        hint="Make the region larger, or install a shorter chain (chain=issuing).",
        octets=octets,
        space=space,
    )


def damaged(what: str) -> DeviceFault:
    """Return the fault of an image whose identity is not whole."""
    return DeviceFault(
        "target.image.damaged",
        f"the image does not hold exactly one identity: {what}",
        hint="Do not flash it; provision this device again as rework, with a new identity.",
    )
