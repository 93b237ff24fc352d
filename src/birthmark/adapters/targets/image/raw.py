"""Raw binary: the identity in a region of the image that was blank."""

from __future__ import annotations

from collections.abc import Sequence

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.form import Identity, Span, damaged, does_not_fit, occupied
from birthmark.adapters.targets.image.identityregion import (
    HEADER_OCTETS,
    decode_region,
    encode_region,
    is_blank,
    region_length,
)
from birthmark.adapters.targets.image.octets import Octets, pieces
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["RawForm", "require_blank"]


class RawForm:
    """Implements ``ImageForm``: ``BMIDREG1`` at the start of a span; the rest of the span stays blank."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def check_base(self, base: Base) -> None:
        require_blank(base, self._span)

    def compose(self, base: Base, identity: Identity, fence: Fence) -> tuple[int, Sequence[Region]]:
        offset, size = self._span.within(base)
        data = encode_region(identity)
        if len(data) > size:
            raise does_not_fit(identity.device_serial, len(data), size)
        return base.size, (Region(offset, data),)

    def read(self, image: Octets) -> Identity | None:
        offset, size = self._span.within(image)
        header = image.read(offset, min(HEADER_OCTETS, size))
        length = region_length(header, size)
        if length is None:
            if not is_blank(header):
                raise damaged("something else lies in its region")
            return None
        identity = decode_region(image.read(offset, length))
        if not all(is_blank(piece) for _, piece in pieces(image, offset + length, offset + size)):
            raise damaged("something follows it in its region")
        return identity


def require_blank(base: Base, span: Span) -> None:
    """Return if nothing was ever written into this part of the base; asked once for each base."""
    offset, size = span.within(base)

    def look() -> bool:
        values = {piece[0] if is_blank(piece) else None for _, piece in pieces(base, offset, offset + size)}
        return len(values) == 1 and None not in values

    if not base.remember(("blank", offset, size), look):
        raise occupied(base, f"octets at {offset:#x}")
