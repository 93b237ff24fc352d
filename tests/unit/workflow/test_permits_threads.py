"""Heads are threads: what they open at once must be one thing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from birthmark.workflow.orders.permits import Permits


def test_two_heads_that_open_a_ca_at_once_share_one_issuer() -> None:
    """A permit is bound to its issuer: with two of them the second head could not use the first one's permit."""
    both_are_inside = threading.Barrier(2, timeout=10)

    def open_slowly(ca: str) -> Any:
        both_are_inside.wait()
        return object()

    nothing: Any = None
    permits = Permits(
        ledger=nothing, records=nothing, issuer=open_slowly, profile=nothing, values=nothing, clock=nothing
    )
    with ThreadPoolExecutor(2) as heads:
        first, second = heads.map(permits.issuer, ["issuing", "issuing"])
    assert first is second
