"""The difference between a base image and the image of one device (docs/formats/image-delta.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal

import msgspec

from birthmark.errors import Tampered
from birthmark.wire.document import Digest, DocumentPart

__all__ = ["MAX_DELTA_OCTETS", "MAX_REGIONS", "Delta", "Region", "decode_delta", "encode_delta"]

MAX_DELTA_OCTETS = 64 << 20
"""A larger delta is refused: such a difference is an image of its own."""

MAX_REGIONS = 4096

_LONGEST_HEADER = 256 * 1024
_DIGEST = 32

_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
_Serial = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?\Z")]


@dataclass(frozen=True, slots=True)
class Region:
    """Octets of the device's image that are not those of the base. ``offset``: from the start of the image."""

    offset: int
    data: bytes = field(repr=False)
    """It may be a private key."""

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Delta:
    """``size``: octets of the device's image, at least ``base_size``; what neither base nor region gives is zero."""

    base_sha256: str
    base_size: int
    device_serial: str
    size: int
    regions: tuple[Region, ...]


class _Header(DocumentPart, frozen=True, kw_only=True):
    format: Literal["birthmark-image-delta/1"] = "birthmark-image-delta/1"
    base_sha256: Digest
    base_size: _Size
    device_serial: _Serial
    size: _Size
    regions: Annotated[tuple[tuple[_Size, _Size], ...], msgspec.Meta(max_length=MAX_REGIONS)]


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(_Header)


def encode_delta(delta: Delta) -> bytes:
    """Return the file: header line, octets of the regions one after the other, SHA-256 of all that."""
    header = _Header(
        base_sha256=delta.base_sha256,
        base_size=delta.base_size,
        device_serial=delta.device_serial,
        size=delta.size,
        regions=tuple((region.offset, len(region.data)) for region in delta.regions),
    )
    told = b"".join((_encoder.encode(header), b"\n", *(region.data for region in delta.regions)))
    return told + sha256(told).digest()


def decode_delta(data: bytes) -> Delta:
    """Read a delta: octet for octet what ``encode_delta`` writes, else ``Tampered("image.delta.malformed")``."""
    told, digest = data[:-_DIGEST], data[-_DIGEST:]
    line, feed, rest = told.partition(b"\n") if len(data) <= MAX_DELTA_OCTETS else (b"", b"", b"")
    if not feed or len(line) > _LONGEST_HEADER:
        raise _malformed("it does not begin with a line of a header")
    if sha256(told).digest() != digest:
        raise _malformed("its SHA-256 does not match")
    try:
        header = _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise _malformed(str(problem)) from None
    if _encoder.encode(header) != line:
        raise _malformed("its header is not in canonical form")
    regions, at = [], 0
    for offset, length in header.regions:
        regions.append(Region(offset, rest[at : at + length]))
        at += length
    if at != len(rest) or header.size < header.base_size or not _in_order(header.regions, header.size):
        raise _malformed("its regions are out of place")
    return Delta(header.base_sha256, header.base_size, header.device_serial, header.size, tuple(regions))


def _in_order(regions: Sequence[tuple[int, int]], size: int) -> bool:
    """Say whether no region is empty, overlaps another or goes over the end."""
    end = 0
    for offset, length in regions:
        if length == 0 or offset < end:
            return False
        end = offset + length
    return end <= size


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "image.delta.malformed",
        f"this is no delta of an image: {reason}",
        hint="Get the file again from the station that made it, or make the image of this device anew.",
        reason=reason[:200],
    )
