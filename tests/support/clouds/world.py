"""A cloud under test, as the laws of ``ports.Cloud`` see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from birthmark.ports.cloud import Cloud, CloudAuthority, Registration
from support.clouds.fleet import Fleet

__all__ = ["CloudWorld"]


@dataclass
class CloudWorld:
    """``open`` gives an adapter that remembers nothing. ``calls``: how many requests reached the cloud until now, let
    in or not. ``snapshot``: all that the cloud holds of devices and CAs, comparable; etags and times of update left
    out. ``secrets``: what no error, outcome or record may show.

    ``impossible``: the cloud would never take it, ``expected`` says so. ``refused``: it looks good here and the cloud
    says no to this one alone; None where nothing is known that the cloud alone refuses. ``too_much``: CAs that break
    the cloud's limits; None where it has none that the adapter can know.

    ``change(serial)``: somebody else changes the record of this device in the cloud (its certificate, where records
    have one); ``add(registration)``: somebody else makes a record; ``remove(serial)``: somebody else takes it away.

    ``faults``: name → begin it, from the next call on. ``throttled``: too many calls, wait (the cloud says how long);
    ``lost``: each call is done and its answer lost; ``shut``: it does not let us in; ``refuses``: no to each whole
    call; ``gone``: nobody listens. Leave out what cannot be had. ``heal`` ends every fault.
    """

    fleet: Fleet
    open: Callable[[], Cloud]
    calls: Callable[[], int]
    snapshot: Callable[[], object]
    change: Callable[[str], None]
    add: Callable[[Registration], None]
    remove: Callable[[str], None]
    impossible: Registration
    secrets: Sequence[bytes]
    heal: Callable[[], None]
    refused: Registration | None = None
    too_much: Sequence[CloudAuthority] | None = None
    faults: Mapping[str, Callable[[], None]] = field(default_factory=lambda: MappingProxyType({}))
    knows_cas: bool = True
    """It is told of CAs; False where each device stands for itself."""
    says_when: bool = True
    """A throttled call is told when to come back."""
