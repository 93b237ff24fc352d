"""What an operation works with: the records of one account and region, and the service around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from birthmark.testing.aws.registry import Registry
from birthmark.testing.dps.faults import Faults

__all__ = ["Desk", "Operation", "page_of", "start_of"]


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


def start_of(token: str | None) -> int:
    """Return where a page begins that a token names; what is no token of ours begins anew."""
    return int(token) if token and token.isascii() and token.isdecimal() and len(token) < 12 else 0


def page_of(
    rows: list[Any], asked: Mapping[str, Any], *, most: str = "maxResults", after: str = "nextToken", usual: int = 25
) -> tuple[list[Any], str | None]:
    """Return a page of ``rows`` and the token of the next; ``most`` and ``after`` name the parameters."""
    start, count = start_of(asked.get(after)), int(asked.get(most) or usual)
    return rows[start : start + count], str(start + count) if start + count < len(rows) else None
