"""``bench issue``: identities per second, durable in the ledger, against key generation and signature alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from birthmark.shell.bench.floor import keygen_and_sign, naive_builder, run_floor
from birthmark.shell.orders.bulk import make_order
from birthmark.shell.throwaway import bench_order, throw_away_workspace
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["bench_issue"]

_FLOOR_ROUNDS = 60_000
_NAIVE_ROUNDS = 12_000


def bench_issue(
    count: int,
    *,
    preset: str,
    processes: int,
    parent: Path,
    progress: Callable[[int], None],
    ledger: str | None = None,
) -> dict[str, object]:
    """Make an order of ``count`` identities and measure it; floors run before and after, in as many processes.

    Counted from the moment the workers are up until the last identity is durable under a signed head;
    ``published_rate`` counts until the log's files are written, too. ``peak_mb`` is the sum of the largest resident
    sets of all processes. ``ledger``: URL of an empty database, by default a file below ``parent``.
    """
    everyone = processes + 1  # the workers and the one writer
    rounds = min(count, _FLOOR_ROUNDS)
    before = run_floor(keygen_and_sign, rounds, everyone)
    with throw_away_workspace(parent, preset=preset, ledger=ledger) as workspace:
        measured = _product(workspace, count, processes, progress)
    after = run_floor(keygen_and_sign, rounds, everyone)
    naive = run_floor(naive_builder, min(count, _NAIVE_ROUNDS), everyone)
    floor = (before + after) / 2
    return {
        "bench": "issue",
        "count": count,
        "profile": preset,
        "processes": processes,
        "ledger": "sqlite" if ledger is None else "postgres",
        "rate": round(measured.rate),
        "floor": round(floor),
        "ratio": round(measured.rate / floor, 3),
        "published_rate": round(measured.published_rate),
        "naive_rate": round(naive),
        "naive_ratio": round(measured.rate / naive, 2),
        "order_create_rate": round(measured.create_rate),
        "p50_ms": None,
        "p99_ms": None,
        "peak_mb": round(measured.peak_mb),
    }


@dataclass(frozen=True, slots=True)
class _Measured:
    """Rates in identities a second."""

    rate: float
    published_rate: float
    create_rate: float
    peak_mb: float


def _product(workspace: Workspace, count: int, processes: int, progress: Callable[[int], None]) -> _Measured:
    order = bench_order(workspace)
    began = time.perf_counter()
    create_order(workspace.ledger, order, serial_range("th-0000000001", count), clock=workspace.clock)
    created = time.perf_counter() - began
    workspace.publish()
    record = workspace.records.order("bench")
    moments: list[float] = []
    peaks: list[float] = []

    def finished(peak_mb: float) -> None:
        workspace.sign_head()
        moments.append(time.perf_counter())
        peaks.append(peak_mb)

    def ready() -> None:
        moments.append(time.perf_counter())

    made = make_order(workspace, record, processes=processes, progress=progress, ready=ready, finished=finished)
    started, durable = moments
    workspace.publish()
    published = time.perf_counter()
    return _Measured(made / (durable - started), made / (published - started), count / created, peaks[0])
