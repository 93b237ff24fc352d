"""``bench station``: station transactions per second without a device link, beside its fsyncs and signatures alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from birthmark.adapters.memory import peak_mb
from birthmark.adapters.targets.identity import certificates_of, require_key
from birthmark.adapters.targets.proof import sign_proof
from birthmark.ports import Credential, Evidence, Fence, Probe
from birthmark.shell.line.heads import StationHeads, open_heads
from birthmark.shell.orders.bulk import default_processes, make_order
from birthmark.shell.throwaway import bench_order, throw_away_workspace
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.line.station import ProvisionRequest, provision
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["NullTarget", "bench_station", "make_pool"]

_COMMITS = 2
"""Ledger transactions a device: drawn; installed with verified and erased. Each is one fsync of the WAL."""
_COMMIT_OCTETS, _LINE_OCTETS = 4 * 4120, 200
_SIGNATURES = 2
"""The device's over the challenge and the station's over the receipt."""


class NullTarget:
    """A device in memory with a real key: everything but the link to it."""

    def __init__(self, device_serial: str) -> None:
        self._device_serial = device_serial
        self._credential: Credential | None = None
        self._key: Any = None

    def probe(self) -> Probe:
        installed = None if self._credential is None else self._credential.certificate
        return Probe(self._device_serial, installed, makes_key=False, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        raise RuntimeError("a null target takes keys")

    def install(self, credential: Credential, fence: Fence) -> None:
        self._key = require_key(credential, certificates_of(credential, chain="full"))
        self._credential = credential

    def prove(self, challenge: bytes) -> Evidence:
        if self._credential is None:
            raise RuntimeError("nothing is installed")
        held = self._credential
        return Evidence(held.certificate, held.chain, "signature", sign_proof(self._key, challenge), None)


def bench_station(heads: int, count: int, *, parent: Path) -> dict[str, object]:
    """Provision ``count`` devices with ``heads`` threads against null targets, file journal and ledger on disk.

    The floor is what this disk and processor need for the same number of fsyncs and signatures one after the other,
    measured twice right after; the better one counts. ``p50_ms`` and ``p99_ms`` are of whole transactions.
    """
    with throw_away_workspace(parent) as workspace:
        devices = make_pool(workspace, count)
        with open_heads(workspace) as line:
            syncs = line.post.journal.syncs  # type: ignore[attr-defined]
            seconds, times = _work(line, devices, heads)
            a_device = (line.post.journal.syncs - syncs) / count  # type: ignore[attr-defined]
        floor = max(_floor(parent, count, a_device) for _ in range(2))
    rate = count / seconds
    ordered = sorted(times)
    return {
        "bench": "station",
        "heads": heads,
        "count": count,
        "rate": round(rate, 1),
        "floor": round(floor, 1),
        "ratio": round(rate / floor, 3),
        "journal_fsyncs_per_device": round(a_device, 2),
        "p50_ms": round(ordered[len(ordered) // 2], 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 2),
        "peak_mb": round(peak_mb()),
    }


def make_pool(workspace: Workspace, count: int) -> list[str]:
    """Order so many devices and make their identities; return the device serials."""
    devices = list(serial_range("th-0000000001", count))
    order = bench_order(workspace)
    create_order(workspace.ledger, order, devices, clock=workspace.clock)
    record = workspace.records.order("bench")
    make_order(workspace, record, processes=default_processes(), progress=lambda made: None)
    return devices


def _work(line: StationHeads, devices: list[str], heads: int) -> tuple[float, list[float]]:
    """Return (seconds, milliseconds of each device)."""
    times: list[float] = []
    lock = threading.Lock()

    def one(device_serial: str) -> None:
        began = time.perf_counter()
        request = ProvisionRequest(device_serial, f"null:{device_serial}")
        target, fence = NullTarget(device_serial), line.fence()
        provision(line.post, request, target=target, source=line.source, fence=fence)
        elapsed = (time.perf_counter() - began) * 1000
        with lock:
            times.append(elapsed)

    began = time.perf_counter()
    with ThreadPoolExecutor(heads) as pool:
        for _ in pool.map(one, devices):
            pass
    return time.perf_counter() - began, times


def _floor(parent: Path, count: int, journal_fsyncs: float) -> float:
    """Return devices per second of fsyncs and P-256 signatures alone."""
    key, scheme, message = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(SHA256()), os.urandom(200)
    with _scratch(parent) as write:
        began = time.perf_counter()
        owed = 0.0
        for _ in range(count):
            for _ in range(_COMMITS):
                write(_COMMIT_OCTETS)
            owed += journal_fsyncs
            while owed >= 1:
                write(_LINE_OCTETS)
                owed -= 1
            for _ in range(_SIGNATURES):
                key.sign(message, scheme)
        return count / (time.perf_counter() - began)


@contextmanager
def _scratch(parent: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function that appends so many octets to a file and waits until they are on disk."""
    path = parent / f"bench-floor-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(octets: int) -> None:
        os.write(descriptor, bytes(octets))
        os.fsync(descriptor)

    try:
        yield write
    finally:
        os.close(descriptor)
        path.unlink()
