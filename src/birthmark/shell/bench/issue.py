"""``bench issue``: identities per second, durable in the ledger, against key generation and signature alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from birthmark.model.ids import OrderId
from birthmark.shell.bench.floor import keygen_and_sign, naive_builder, run_floor
from birthmark.shell.bench.place import throw_away_workspace
from birthmark.shell.bulk import make_order
from birthmark.shell.wiring import Workspace
from birthmark.workflow.order import NewOrder, create_order, serial_range

__all__ = ["bench_issue"]

_FLOOR_ROUNDS = 60_000
_NAIVE_ROUNDS = 12_000


def bench_issue(count: int, *, processes: int, parent: Path, progress: Callable[[int], None]) -> dict[str, object]:
    """Make an order of ``count`` identities and measure it; floors run before and after, in as many processes.

    Counted from the moment the workers are up until the last head is signed and shown. ``peak_mb`` is the sum of the
    largest resident sets of all processes.
    """
    everyone = processes + 1  # the workers and the one writer
    rounds = min(count, _FLOOR_ROUNDS)
    before = run_floor(keygen_and_sign, rounds, everyone)
    with throw_away_workspace(parent) as workspace:
        rate, create_rate, peak_mb = _product(workspace, count, processes, progress)
    after = run_floor(keygen_and_sign, rounds, everyone)
    naive = run_floor(naive_builder, min(count, _NAIVE_ROUNDS), everyone)
    floor = (before + after) / 2
    return {
        "bench": "issue",
        "count": count,
        "processes": processes,
        "rate": round(rate),
        "floor": round(floor),
        "ratio": round(rate / floor, 3),
        "naive_rate": round(naive),
        "naive_ratio": round(rate / naive, 2),
        "order_create_rate": round(create_rate),
        "p50_ms": None,
        "p99_ms": None,
        "peak_mb": round(peak_mb),
    }


def _product(
    workspace: Workspace, count: int, processes: int, progress: Callable[[int], None]
) -> tuple[float, float, float]:
    """Return (identities/s, ordered devices/s, peak MB)."""
    settings = workspace.product("device")
    order = NewOrder(
        order=OrderId("bench"),
        product="device",
        profile=workspace.profile(settings.profile),
        key_algorithm=settings.key_algorithm,
        key_origin="injected",
        ca=settings.ca,
        by=workspace.by,
    )
    began = time.perf_counter()
    create_order(workspace.ledger, order, serial_range("th-0000000001", count), clock=workspace.clock)
    create_rate = count / (time.perf_counter() - began)
    workspace.publish()
    record = workspace.records.order("bench")
    started: list[float] = []
    peaks: list[float] = []

    def note_ready() -> None:
        started.append(time.perf_counter())

    made = make_order(
        workspace, record, processes=processes, progress=progress, ready=note_ready, finished=peaks.append
    )
    workspace.publish()
    elapsed = time.perf_counter() - started[0]
    return made / elapsed, create_rate, peaks[0]
