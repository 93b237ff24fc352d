"""Intel HEX: the identity as records before the end record; everything the base says stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.form import Identity, Span, base_malformed, damaged, does_not_fit
from birthmark.adapters.targets.image.identityregion import (
    HEADER_OCTETS,
    decode_region,
    encode_region,
    region_length,
)
from birthmark.adapters.targets.image.octets import Octets, Overlay
from birthmark.errors import Misconfigured
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["HexForm"]

# Record types (Intel, Hexadecimal Object File Format Specification, revision A).
_DATA, _END, _SEGMENT, _START_SEGMENT, _LINEAR, _START_LINEAR = range(6)
_ROW = 16
_TOP = 1 << 32
_LARGEST_BASE = 256 << 20


@dataclass(frozen=True, slots=True)
class _Known:
    """``end``: where the end record begins, in octets of the text; ``upper``: upper address bits in force there, None
    before any was given; ``rows``: (address, data) of the records that touch the span that was asked for."""

    end: int
    upper: int | None
    feed: bytes
    rows: tuple[tuple[int, bytes], ...] = field(repr=False)


class HexForm:
    """Implements ``ImageForm``: ``BMIDREG1`` at an address. ``span``: addresses, not places in the text."""

    def __init__(self, span: Span) -> None:
        self._start = span.offset
        self._end = span.offset + (span.size or 0)

    def check_base(self, base: Base) -> None:
        self._known(base)

    def compose(self, base: Base, identity: Identity, fence: Fence) -> tuple[int, Sequence[Region]]:
        known = self._known(base)
        data = encode_region(identity)
        if len(data) > self._end - self._start:
            raise does_not_fit(identity.device_serial, len(data), self._end - self._start)
        last = base.read(known.end, base.size - known.end)
        text = known.feed.join((*_records(self._start, data, known.upper), b"")) + last
        return known.end + len(text), (Region(known.end, text),)

    def read(self, image: Octets) -> Identity | None:
        rows = self._rows(image)
        if not rows:
            return None
        data, at = bytearray(), self._start
        for address, row in sorted(rows):
            if address != at:
                raise damaged(f"its records leave a gap or overlap at {at:#x}")
            data += row
            at += len(row)
        length = region_length(bytes(data[:HEADER_OCTETS]), self._end - self._start)
        if length != len(data):
            raise damaged("other data lies in its region")
        return decode_region(bytes(data))

    def _rows(self, image: Octets) -> Sequence[tuple[int, bytes]]:
        """Return the records inside the span. What a base says is read once, not again for each device."""
        below = image.below if isinstance(image, Overlay) else None
        if not isinstance(image, Overlay) or not isinstance(below, Base):
            return self._scan(image, 0, None).rows
        known = self._known(below)
        if len(image.regions) != 1 or image.regions[0].offset != known.end:
            return self._scan(image, 0, None).rows
        return self._scan(image, known.end, known.upper).rows

    def _known(self, base: Base) -> _Known:
        """Return what is known of the base; ``Misconfigured``: ``target.image.base.overlap``, ``.malformed``."""
        known = base.remember(("hex", self._start, self._end), lambda: self._scan(base, 0, None))
        if known.rows:
            raise Misconfigured(
                "target.image.base.overlap",
                f"the firmware has data at {known.rows[0][0]:#x}, where the identity goes",
                hint="Give the identity a region that the linker leaves free; nothing was written.",
                path=str(base.path),
                address=known.rows[0][0],
            )
        return known

    def _scan(self, octets: Octets, start: int, upper: int | None) -> _Known:
        """Read the text from ``start`` on; ``Misconfigured("target.image.base.malformed")`` if it is wrong."""
        if octets.size > _LARGEST_BASE:
            raise base_malformed(octets, f"Intel HEX of more than {_LARGEST_BASE} octets")
        text = octets.read(start, octets.size - start)
        feed = b"\r\n" if b"\r\n" in text[:600] else b"\n"
        rows: list[tuple[int, bytes]] = []
        try:
            for at, kind, address, data in _parsed(text):
                if kind == _END:
                    if text[at:].strip() != text[at:].splitlines()[0].strip():
                        raise ValueError("something follows the end record")
                    return _Known(start + at, upper, feed, tuple(rows))
                if kind == _LINEAR:
                    upper = int.from_bytes(data, "big") << 16
                elif kind == _SEGMENT:
                    upper = int.from_bytes(data, "big") << 4
                elif kind == _DATA:
                    absolute = (upper or 0) + address
                    if absolute < self._end and absolute + len(data) > self._start:
                        rows.append((absolute, data))
            raise ValueError("the end record is missing")
        except ValueError as problem:
            raise base_malformed(octets, f"this is not Intel HEX: {problem}") from None


def _parsed(text: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (place in the text, record type, address, data) up to the end record; ``ValueError`` if one is wrong."""
    at = 0
    for line in text.splitlines(keepends=True):
        record = line.strip()
        if record:
            octets = bytes.fromhex(record[1:].decode("ascii", "replace"))
            if record[:1] != b":" or len(octets) != 5 + octets[0] or sum(octets) & 0xFF or octets[3] > _START_LINEAR:
                raise ValueError(f"the record at {at} is wrong")
            yield at, octets[3], int.from_bytes(octets[1:3], "big"), octets[4:-1]
            if octets[3] == _END:
                return
        at += len(line)


def _records(start: int, data: bytes, upper: int | None) -> Iterator[bytes]:
    """Return the records of ``data`` at an address, 16 octets each, with the upper address where it is another."""
    address, rest = start, data
    while rest:
        if (upper or 0) != address & ~0xFFFF:
            upper = address & ~0xFFFF
            yield _record(_LINEAR, 0, (upper >> 16).to_bytes(2, "big"))
        length = min(_ROW, 0x10000 - (address & 0xFFFF))
        yield _record(_DATA, address & 0xFFFF, rest[:length])
        address, rest = address + length, rest[length:]


def _record(kind: int, address: int, data: bytes) -> bytes:
    octets = bytes((len(data),)) + address.to_bytes(2, "big") + bytes((kind,)) + data
    return b":" + (octets + bytes((-sum(octets) & 0xFF,))).hex().upper().encode("ascii")
