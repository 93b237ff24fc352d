"""Events of registration: what a cloud was told, on record in the log."""

from __future__ import annotations

from birthmark.model.eventbase import EventBase

__all__ = ["Registered"]


class Registered(EventBase, frozen=True, tag="registered"):
    """A cloud was told of devices; ``refused`` of the ``count`` it did not take. ``cloud``: its name.

    Attachment: a line a device, ``device_serial revision standing outcome``, ascending by device, no final line feed;
    ``lines_sha256`` is its hash. ``revision``: the entry that made the device due.
    """

    cloud: str
    count: int
    refused: int
    lines_sha256: str
    by: str
