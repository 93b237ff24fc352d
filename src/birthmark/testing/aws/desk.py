"""What an operation works with: the records of one account and region, and the service around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from birthmark.testing.aws.registry import Registry
from birthmark.testing.dps.faults import Faults

__all__ = ["Desk", "Operation", "page_of"]


@dataclass(slots=True)
class Desk:
    """``url``: where the emulator answers; ``lock``: held by whoever reads or changes the records.

    ``reports``: secret part of a link → what is behind it; ``endpoint``: host name of the data plane.
    """

    registry: Registry
    url: str
    endpoint: str
    faults: Faults
    lock: RLock
    reports: dict[str, bytes] = field(default_factory=dict)


Operation = Callable[[Desk, Mapping[str, Any]], Mapping[str, Any]]
"""An operation of the API: its parameters, as the model names them, → the members of its answer."""


def page_of(
    rows: list[dict[str, Any]], asked: Mapping[str, Any], *, most: str, token: str, usual: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Return a page of ``rows`` and the token of the next; ``most`` and ``token`` name the parameters."""
    start = asked.get(token) or "0"
    first = int(start) if start.isdecimal() and len(start) < 12 else 0
    count = int(asked.get(most) or usual)
    after = first + count
    return rows[first:after], str(after) if after < len(rows) else None
