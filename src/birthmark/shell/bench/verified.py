"""Verified devices in numbers, as a line leaves them in the ledger, without a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256

from birthmark.model import events as e
from birthmark.shell.orders.bulk import default_processes, make_order
from birthmark.shell.throwaway import bench_order
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["make_verified"]

_A_TRANSACTION = 500


def make_verified(
    workspace: Workspace, count: int, *, first: str = "th-0000001", progress: Callable[[int], None] = lambda made: None
) -> None:
    """Make ``count`` identities in bulk and put on record that each was drawn, installed and verified.

    The certificates are real. The receipts say nothing, since nobody who registers devices reads them: ``audit verify``
    finds that.
    """
    order = bench_order(workspace)
    serials = list(serial_range(first, count))
    create_order(workspace.ledger, order, serials, clock=workspace.clock)
    made = workspace.records.order("bench")
    make_order(workspace, made, processes=default_processes(), progress=progress)
    station, receipt = next(iter(workspace.settings.stations)), b"no receipt"
    digest = sha256(receipt).hexdigest()
    for at in range(0, count, _A_TRANSACTION):
        with workspace.ledger.transaction() as tx:
            for serial in serials[at : at + _A_TRANSACTION]:
                for event in _events(serial, station, digest):
                    tx.append(event, receipt if isinstance(event, e.Verified) else b"")
    workspace.publish()


def _events(serial: str, station: str, receipt_sha256: str) -> Iterator[e.Event]:
    at, attempt = "2026-11-26T00:00:00.000Z", f"bench-{serial}"
    yield e.Drawn(at=at, device=serial, station=station, attempt=attempt)
    yield e.Installed(
        at=at, device=serial, station=station, attempt=attempt, target="files:bench", cert_sha256="00" * 32
    )
    yield e.Verified(
        at=at, device=serial, station=station, attempt=attempt, evidence="signature", receipt_sha256=receipt_sha256
    )
