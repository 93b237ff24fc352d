"""``bench ray``: an order whose keys a Ray cluster makes, beside the same order made by processes of this machine."""

from __future__ import annotations

import time
from pathlib import Path

from birthmark.shell.orders.bulk import EngineChoice, make_order
from birthmark.shell.throwaway import bench_order, throw_away_workspace
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["bench_ray"]


def bench_ray(
    count: int, *, preset: str, key_algorithm: str, workers: int, address: str | None, parent: Path
) -> dict[str, object]:
    """Make orders of ``count`` identities with the same number of workers: processes, Ray, processes.

    Counted from the moment the workers are up until the last identity is durable. RSA keys take different times:
    the rate of ``count`` of them scatters by about 1/sqrt(count).
    """
    ours, ray = EngineChoice("processes"), EngineChoice("ray", address)
    with throw_away_workspace(parent, preset=preset) as workspace:
        rates = [
            _rate(workspace, f"bench-{number}", key_algorithm, count, workers, choice)
            for number, choice in enumerate((ours, ray, ours))
        ]
    processes = (rates[0] + rates[2]) / 2
    return {
        "bench": "ray",
        "count": count,
        "key_algorithm": key_algorithm,
        "workers": workers,
        "rate": round(rates[1], 1),
        "floor": round(processes, 1),
        "floor_runs": f"{rates[0]:.1f}, {rates[2]:.1f}",
        "ratio": round(rates[1] / processes, 3),
    }


def _rate(workspace: Workspace, name: str, key_algorithm: str, count: int, workers: int, choice: EngineChoice) -> float:
    """Return identities a second."""
    order = bench_order(workspace, name, key_algorithm=key_algorithm)
    create_order(workspace.ledger, order, serial_range(f"{name}-0000000001", count), clock=workspace.clock)
    moments: list[float] = []
    made = make_order(
        workspace,
        workspace.records.order(name),
        processes=workers,
        choice=choice,
        progress=lambda done: None,
        ready=lambda: moments.append(time.perf_counter()),
        finished=lambda peak_mb: moments.append(time.perf_counter()),
    )
    return made / (moments[1] - moments[0])
