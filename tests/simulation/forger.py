"""A site that writes into its own ledger what did not happen."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Any

from birthmark.model import events as e
from birthmark.shell.workspace.wiring import Workspace

__all__ = ["EXPECTED", "forge"]

EXPECTED = {
    "site.bundle",
    "site.certificate",
    "site.device.foreign",
    "site.double",
    "site.entry.unlawful",
    "site.order.foreign",
    "site.quota",
    "site.receipt",
}
"""Classes of findings that a forger may bring upon himself."""


def forge(workspace: Workspace, random: Random, begun: Callable[[], None]) -> str | None:
    """Write a lie if there is anything to lie about; return which. ``begun`` is called right before it is written."""
    lies = [_receipt, _order, _foreign_device]
    random.shuffle(lies)
    for lie in lies:
        if told := lie(workspace, random, begun):
            return told
    return None


def _receipt(workspace: Workspace, random: Random, begun: Callable[[], None]) -> str | None:
    """Say that a device was verified which is not, with a receipt that nobody signed."""
    for order in workspace.records.orders():
        for chunk in range(order.chunks):
            for serial in _serials(workspace, order.order, chunk):
                device: Any = workspace.records.device(serial)
                if device.state not in ("installed", "drawn", "issued"):
                    continue
                held = {"at": e.utc_text(workspace.clock()), "device": serial, "station": "line1"}
                held["attempt"] = device.attempt or random.randbytes(16).hex()
                note = b"no receipt"
                begun()
                with workspace.ledger.transaction() as tx:
                    if device.state != "installed":
                        tx.append(e.Installed(**held, target="memory:none", cert_sha256="00" * 32))
                    tx.append(e.Verified(**held, evidence="signature", receipt_sha256=sha256(note).hexdigest()), note)
                return f"receipt of {serial}"
    return None


def _order(workspace: Workspace, random: Random, begun: Callable[[], None]) -> str | None:
    """Work on an order that nobody gave."""
    known: Any = next(iter(workspace.records.orders()), None)
    if known is None:
        return None
    at, name = e.utc_text(workspace.clock()), f"night-{random.randrange(10**6)}"
    order = e.OrderCreated(
        at=at, order=name, product=known.product, profile=known.profile, key_algorithm=known.key_algorithm,
        key_origin=known.key_origin, ca=known.ca, quantity=1, chunks=1, by="forger",
    )  # fmt: skip
    begun()
    with workspace.ledger.transaction() as tx:
        tx.append(order)
        tx.append(e.DevicesOrdered(at=at, order=name, chunk=0, first=0, count=1), f"X-{name}".encode())
    return f"order {name}"


def _foreign_device(workspace: Workspace, random: Random, begun: Callable[[], None]) -> str | None:
    """Make more units than an order has: one more chunk under the name of an order that was given."""
    known: Any = next(iter(workspace.records.orders()), None)
    if known is None:
        return None
    at, serial = e.utc_text(workspace.clock()), f"M-{random.randrange(10**6)}"
    more = e.DevicesOrdered(at=at, order=known.order, chunk=known.chunks, first=known.quantity, count=1)
    begun()
    with workspace.ledger.transaction() as tx:
        tx.append(more, serial.encode())
    return f"device {serial} of {known.order}"


def _serials(workspace: Workspace, order: str, chunk: int) -> list[str]:
    for state in ("ordered", "reserved", "issued"):
        for record in workspace.records.chunks(order, state, chunk - 1, 1):
            if record.chunk == chunk:
                ((_, entry),) = workspace.ledger.entries(record.seq, 1)
                return e.decode_entry(entry)[1].decode().split("\n")
    return []
