"""What every event has: a moment, and a spelling that leaves defaults out."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

__all__ = ["EventBase", "utc_text"]


class EventBase(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="type",
):
    """The base of all events."""

    at: str
    """UTC, RFC 3339 with milliseconds: ``2026-11-24T02:10:11.123Z``."""


def utc_text(moment: datetime) -> str:
    """Return an aware moment as the ``at`` of an event."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
