"""``bench ingest``: receipts of sites verified and settled, beside their signatures and hash alone."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from birthmark.adapters.memory import peak_mb, watched_children
from birthmark.errors import Tampered
from birthmark.shell.bench.floor import run_floor
from birthmark.shell.bench.sitelog import ENTRIES_A_RECEIPT, SiteLog
from birthmark.shell.orders.bulk import default_processes, make_order
from birthmark.shell.sites.ingest import checking_processes, ingest_file
from birthmark.shell.throwaway import bench_order, throw_away_workspace
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["bench_ingest", "receipt_floor"]

_FLOOR_ROUNDS = 20_000
_ENTRY_OCTETS, _MESSAGE_OCTETS = 1600, 300
_FIRST_PREFIX = 0x0200
_FILL_ORDER = 100_000


def bench_ingest(
    sites: int,
    receipts: int,
    *,
    parent: Path,
    rows: int = 0,
    processes: int | None = None,
    progress: Callable[[int], None],
) -> dict[str, object]:
    """Ingest the reports of ``sites`` sites, ``receipts`` devices each, one after the other into one ledger.

    Before the second half of the reports the ledger is filled up to ``rows`` devices. ``first_us`` and ``last_us`` are
    microseconds of processor time a receipt, all processes together: medians of the reports before and behind that
    (without ``rows``: the first report and the last one), when the ledger has ``first_rows`` and ``last_rows`` devices;
    ``growth`` is last / first. ``floor_us`` and ``per_core_ratio`` compare processor time alone.

    Everything counts: checking the file, its tiles, the site's tables, every signature, and what is durable in the
    authority's ledger. The floor is one Ed25519 verification, one P-256 verification and one SHA-256 a receipt, in as
    many processes, before and after. ``peak_mb`` is the sum of the largest resident sets of this process, which makes
    the reports too, and the workers that check one.
    """
    makers = processes or default_processes()
    workers = max(1, checking_processes(receipts * ENTRIES_A_RECEIPT, makers))
    with throw_away_workspace(parent) as workspace:
        rounds = min(_FLOOR_ROUNDS, max(2000, receipts))
        before = run_floor(receipt_floor, rounds, workers)
        half = (sites + 1) // 2 if rows else 1
        floors = [_floor_us(rounds)]
        times = [_one(workspace, number, receipts, makers, progress) for number in range(half)]
        first_rows = _devices(workspace)
        floors.append(_floor_us(rounds))
        _fill(workspace, rows - first_rows - (sites - half) * receipts)
        times += [_one(workspace, number, receipts, makers, progress) for number in range(half, sites)]
        floors.append(_floor_us(rounds))
        after = run_floor(receipt_floor, rounds, workers)
        last_rows, entries = _devices(workspace), workspace.ledger.head().size
    floor, rate = (before + after) / 2, sites * receipts / sum(seconds for seconds, _, _ in times)
    each = [worked / receipts * 1e6 for _, worked, _ in times]
    floor_us = median(floors)
    first, last = (median(each[:half]), median(each[half:] or each)) if rows else (each[0], each[-1])
    return {
        "bench": "ingest",
        "sites": sites,
        "receipts": receipts,
        "processes": workers,
        "rate": round(rate),
        "floor": round(floor),
        "ratio": round(rate / floor, 3),
        "first_rows": first_rows,
        "first_us": round(first, 1),
        "last_rows": last_rows,
        "last_us": round(last, 1),
        "growth": round(last / first, 3),
        "floor_us": round(floor_us, 1),
        "per_core_ratio": round(floor_us / (sum(each) / len(each)), 3),
        "ledger_entries": entries,
        "p50_ms": None,
        "p99_ms": None,
        "peak_mb": round(peak_mb() + max(peak for _, _, peak in times)),
    }


def _floor_us(rounds: int) -> float:
    """Return the microseconds of processor time that the floor takes for one receipt."""
    loop, began = receipt_floor(rounds), time.process_time()
    loop()
    return (time.process_time() - began) / rounds * 1e6


def _devices(workspace: Workspace) -> int:
    """Return how many devices the ledger has."""
    return sum(order.quantity for order in workspace.records.orders())


def _fill(workspace: Workspace, devices: int) -> None:
    """Order so many devices that nobody makes: half of them sort before those of the sites, half behind."""
    for number, first in enumerate(range(0, devices, _FILL_ORDER)):
        serials = serial_range(f"{'az'[number % 2]}{number:05}-0000000001", min(_FILL_ORDER, devices - first))
        create_order(workspace.ledger, bench_order(workspace, f"fill-{number}"), serials, clock=workspace.clock)


def _one(
    workspace: Workspace, number: int, receipts: int, processes: int, progress: Callable[[int], None]
) -> tuple[float, float, float]:
    """Make one site's log and ingest it; return the seconds that took, those of the processors, and the workers' MB."""
    name = f"site-{number}"
    order = bench_order(workspace, f"lot-{number}")
    serials = serial_range(f"s{number:03}-0000000001", receipts)
    create_order(workspace.ledger, order, serials, clock=workspace.clock)
    make_order(workspace, workspace.records.order(order.order), processes=processes, progress=lambda made: None)
    log = SiteLog(workspace, name, order.order, f"{_FIRST_PREFIX + number:04x}")
    log.work()
    path = workspace.root / f"{name}.report"
    log.write(path)
    began, worked = time.perf_counter(), _processor_seconds()
    with watched_children() as of_workers:
        result = ingest_file(workspace, path, processes=processes)
    seconds, worked = time.perf_counter() - began, _processor_seconds() - worked
    path.unlink()
    if result.findings or result.settled < receipts:
        raise Tampered("bench.findings", "an honest report was not settled", hint="This is a defect: report it.")
    progress(receipts)
    return seconds, worked, of_workers()


def _processor_seconds() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def receipt_floor(count: int) -> Callable[[], None]:
    """Hash an entry and verify one Ed25519 and one P-256 signature, ``count`` times."""
    from hashlib import sha256

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256

    entry, message, scheme = os.urandom(_ENTRY_OCTETS), os.urandom(_MESSAGE_OCTETS), ec.ECDSA(SHA256())
    device, station = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    proof, note = device.sign(message, scheme), station.sign(entry)
    verify_proof, verify_note = device.public_key().verify, station.public_key().verify

    def loop() -> None:
        for _ in range(count):
            sha256(entry).digest()
            verify_note(note, entry)
            verify_proof(proof, message, scheme)

    return loop
