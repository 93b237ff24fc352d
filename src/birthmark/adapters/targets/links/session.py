"""One device for one run: what is behind a port may not change while it is worked on."""

from __future__ import annotations

from birthmark.errors import DeviceFault

__all__ = ["same_device"]


def same_device(known: str | None, found: str) -> str:
    """Return ``found``; ``DeviceFault("device.identity.changed")`` if another device was there before."""
    if known not in (None, found):
        raise DeviceFault(
            "device.identity.changed",
            f"device {found[:80]!a} answers where {known[:80] if known else ''!a} was a moment ago",
            hint="Do not change the device in the fixture before the station says pass or fail.",
            found=ascii(found[:80]),
        )
    return found
