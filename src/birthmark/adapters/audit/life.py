"""The life of one device while its events are replayed, and which change may follow which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from birthmark.adapters.audit.findings import Findings

__all__ = ["LIVE", "NEXT", "DevicePart", "Life", "unlawful"]

LIVE = frozenset(("issued", "pooled", "consigned", "drawn", "installed", "verified"))
_BEFORE_FAILED = ("reserved", "issued", "pooled", "drawn", "installed")
_BEFORE_SUPERSEDED = ("failed", "issued", "pooled", "consigned", "drawn", "installed", "verified")
NEXT: Mapping[tuple[str, str], str] = {
    ("ordered", "reserved"): "reserved",
    ("reserved", "abandoned"): "ordered",
    ("reserved", "issued"): "issued",
    ("pooled", "drawn"): "drawn",
    ("drawn", "installed"): "installed",
    ("issued", "installed"): "installed",
    ("installed", "verified"): "verified",
    ("verified", "admitted"): "verified",
    **{(state, "failed"): "failed" for state in _BEFORE_FAILED},
    **{(state, "superseded"): "ordered" for state in _BEFORE_SUPERSEDED},
    **{(state, "scrapped"): "scrapped" for state in (*_BEFORE_SUPERSEDED, "ordered", "reserved")},
}
"""The lawful changes, as docs/flow.md draws them."""


@dataclass(slots=True)
class DevicePart:
    """Counts of one shard. ``states``: (order, chunk, state) to devices; ``live``: with a valid certificate."""

    touched: int = 0
    certificate_rows: int = 0
    receipts: int = 0
    erased: int = 0
    settled: int = 0
    """Rows that table ``settled`` must have."""
    closed: Counter[str] = field(default_factory=Counter)
    """Order to pooled devices whose keys were erased."""
    taken: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(Order, chunk) to devices that had a state of their own when their chunk left with a bundle."""
    states: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)


@dataclass(slots=True)
class Life:
    """One device while its events are replayed. ``own`` is set from the first event that is not its chunk's."""

    device: str
    order: str
    chunk: int
    place: int
    key_origin: str
    state: str = "ordered"
    intent: int | None = None
    position: int | None = None
    attempt: str | None = None
    own: bool = False
    singles: dict[int, list[Any]] = field(default_factory=dict)
    """Intent to [document, record, state, issued entry] of reservations for this device alone."""
    certificates: dict[int, str] = field(default_factory=dict)
    """Intent to SHA-256 of the certificate issued for it, hex."""
    zeros: set[tuple[int, int]] = field(default_factory=set)
    erased: set[tuple[int, int]] = field(default_factory=set)
    settled: dict[str, Any] | None = None
    """The last ``site_settled`` line."""
    settled_row: bool = False
    """Table ``settled`` has a row of it."""
    verified: bool = False
    """It was verified at some time, here or at a site."""
    at_site: dict[str, list[int]] = field(default_factory=dict)
    """Site to the entries of its log that hold a certificate of this device."""


def unlawful(life: Life, kind: str) -> tuple[str, str]:
    if kind == "drawn" and life.state in ("drawn", "installed", "verified"):
        return "audit.pool.drawn_twice", f"drawn again while it was {life.state}"
    if kind in ("reserved", "issued") and life.state in LIVE:
        return "audit.device.two_live", f"{kind} while it was {life.state}"
    return "audit.device.state", f"{kind} while it was {life.state}"
