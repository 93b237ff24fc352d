"""Which attempt a caller's next try is, and the refusal of those who only look."""

from __future__ import annotations

from birthmark.errors import Refused
from birthmark.workflow.line.stationpost import StationPost, new_attempt

__all__ = ["attempt_to_use", "not_verified"]

_CLOSED = frozenset({"done", "void"})


def attempt_to_use(post: StationPost, device_serial: str) -> str:
    """Return the attempt that is under way for a device at this station, or the id of a new one.

    Whoever stores an id of his own before he begins asks here first: an id beside the one under way is
    ``Refused("attempt.other")``. An attempt whose identity was ended meanwhile is not under way.
    """
    last = post.journal.last(device_serial)
    if last is None or last.step in _CLOSED:
        return new_attempt(post.entropy)
    device = post.records.device(device_serial)
    used = post.records.attempt(last.attempt) is not None
    is_stale = used and (device is None or device.attempt != last.attempt)
    return new_attempt(post.entropy) if is_stale else last.attempt


def not_verified(device_serial: str, state: str) -> Refused:
    """Return the refusal of a device that should hold its identity and does not yet."""
    return Refused(
        "device.not_verified",
        f"device {device_serial[:80]} has no identity to prove: it is {state}",
        hint="Provision it; to see where it stands use `birthmark device show`.",
        device_serial=device_serial[:80],
        state=state,
    )
