"""``bench audit``: full verification of logged identities, against one SHA-256 and one P-256 verification each."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from birthmark.adapters.memory import peak_mb, watched_children
from birthmark.errors import StationFault
from birthmark.shell.bench.floor import run_floor
from birthmark.shell.orders.bulk import default_processes, make_order
from birthmark.shell.throwaway import bench_order, throw_away_workspace
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["bench_audit", "hash_and_verify"]

_FLOOR_ROUNDS = 60_000
_ENTRY_OCTETS, _TBS_OCTETS = 640, 400


def bench_audit(
    count: int,
    *,
    parent: Path,
    processes: int | None = None,
    progress: Callable[[int], None] = lambda _made: None,
) -> dict[str, object]:
    """Make ``count`` identities, then audit them in a fresh process; floors run before and after the audit.

    ``rate`` counts from the start of the audit, worker start-up included, to its report. ``make_s`` is the time it
    took to make the data and is in nothing else. ``peak_mb`` is the sum of the largest resident sets of the auditing
    process and its workers.
    """
    workers = processes or default_processes()
    rounds = min(max(count, 1000), _FLOOR_ROUNDS)
    with throw_away_workspace(parent) as workspace:
        began = time.perf_counter()
        _make(workspace, count, workers, progress)
        made_s = time.perf_counter() - began
        root = workspace.root
        before = run_floor(hash_and_verify, rounds, workers)
        seconds, peak_mb, findings = _audit(root, workers)
        after = run_floor(hash_and_verify, rounds, workers)
    floor, rate = (before + after) / 2, count / seconds
    return {
        "bench": "audit",
        "count": count,
        "processes": workers,
        "rate": round(rate),
        "rate_per_core": round(rate / workers),
        "floor": round(floor),
        "ratio": round(rate / floor, 3),
        "findings": findings,
        "make_s": round(made_s, 1),
        "p50_ms": None,
        "p99_ms": None,
        "peak_mb": round(peak_mb),
    }


def _make(workspace: Workspace, count: int, workers: int, progress: Callable[[int], None]) -> None:
    order = bench_order(workspace)
    create_order(workspace.ledger, order, serial_range("th-0000000001", count), clock=workspace.clock)
    make_order(workspace, workspace.records.order("bench"), processes=workers, progress=progress)
    workspace.publish()


def _audit(root: Path, workers: int) -> tuple[float, float, int]:
    """Return (seconds, peak MB, violations) of an audit in a process of its own, whose memory held nothing before."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, root, workers))
    process.start()
    theirs.close()
    try:
        answer: tuple[float, float, int] = ours.recv()
    except EOFError:
        raise StationFault(
            "bench.worker.died", "the auditing process died", hint="Look for a lack of memory or disk space."
        ) from None
    finally:
        process.join()
    return answer


def _serve(pipe: Connection, root: Path, workers: int) -> None:
    from birthmark.adapters.audit.verify import verify_workspace

    started = time.perf_counter()
    with watched_children() as of_workers:
        report = verify_workspace(root, processes=workers)
    seconds = time.perf_counter() - started
    pipe.send((seconds, peak_mb() + of_workers(), report.errors))


def hash_and_verify(count: int) -> Callable[[], None]:
    """Hash an entry and verify one P-256 signature over a TBS-sized message, ``count`` times."""
    from hashlib import sha256

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    entry, message, scheme = os.urandom(_ENTRY_OCTETS), os.urandom(_TBS_OCTETS), ec.ECDSA(SHA256())
    key = ec.generate_private_key(ec.SECP256R1())
    signature, verify = key.sign(message, scheme), key.public_key().verify

    def loop() -> None:
        for _ in range(count):
            sha256(entry).digest()
            verify(signature, message, scheme)

    return loop
