"""The life of a device's identity: one table of lawful changes.

ordered ─ reserved ─ issued ─┬─ pooled ─ drawn ─┐
                             └──────────────────┴─ installed ─ verified
any of these ─→ failed ─→ ordered (rework) · any ─→ scrapped · pooled ─→ consigned (in a bundle, to a site)
"""

from __future__ import annotations

from enum import StrEnum

from birthmark.errors import Refused

__all__ = ["LIVE", "TRANSITIONS", "DeviceState", "next_state"]


class DeviceState(StrEnum):
    """Where a device's identity stands."""

    ORDERED = "ordered"
    RESERVED = "reserved"
    ISSUED = "issued"
    POOLED = "pooled"
    CONSIGNED = "consigned"
    DRAWN = "drawn"
    INSTALLED = "installed"
    VERIFIED = "verified"
    FAILED = "failed"
    SCRAPPED = "scrapped"


S = DeviceState
LIVE = frozenset({S.ISSUED, S.POOLED, S.CONSIGNED, S.DRAWN, S.INSTALLED, S.VERIFIED})
"""States in which a certificate of the device counts as valid."""

TRANSITIONS: dict[tuple[DeviceState, str], DeviceState] = {
    (S.ORDERED, "reserved"): S.RESERVED,
    (S.RESERVED, "abandoned"): S.ORDERED,
    (S.RESERVED, "issued"): S.ISSUED,
    (S.RESERVED, "pooled"): S.POOLED,
    (S.POOLED, "drawn"): S.DRAWN,
    (S.POOLED, "consigned"): S.CONSIGNED,
    (S.DRAWN, "installed"): S.INSTALLED,
    (S.ISSUED, "installed"): S.INSTALLED,
    (S.INSTALLED, "verified"): S.VERIFIED,
    (S.VERIFIED, "admitted"): S.VERIFIED,
    **{(s, "failed"): S.FAILED for s in (S.RESERVED, S.ISSUED, S.POOLED, S.DRAWN, S.INSTALLED)},
    **{
        (s, "superseded"): S.ORDERED
        for s in (S.FAILED, S.CONSIGNED, S.ISSUED, S.POOLED, S.DRAWN, S.INSTALLED, S.VERIFIED)
    },
    **{(s, "scrapped"): S.SCRAPPED for s in S if s is not S.SCRAPPED},
}
"""(state, event) → state. ``pooled`` is an ``issued`` whose key was made here and lies sealed."""


def next_state(device_serial: str, state: DeviceState, event: str) -> DeviceState:
    """Return the state after ``event``, or refuse it (``device.state``)."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise Refused(
            "device.state",
            f"device {device_serial} is {state}; it cannot become {event}",
            hint="Look at it with `birthmark device show`; one that has an identity needs `birthmark device rework`.",
            device_serial=device_serial,
            state=str(state),
            event=event,
        )
    return after
