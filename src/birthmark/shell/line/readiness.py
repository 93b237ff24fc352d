"""How long a station can go on: identities in stock, devices that may still be made, time until something expires."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from birthmark.errors import BirthmarkError
from birthmark.pki.signingtime import signing_window

if TYPE_CHECKING:
    from birthmark.model.records import OrderRecord
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["CaReady", "OrderReady", "Readiness", "readiness_of"]


class OrderReady(msgspec.Struct, frozen=True, kw_only=True):
    """One order here. ``stock``: made ahead and not used; ``open``: the quota that is left to be made."""

    order: str
    product: str
    key_origin: str
    ordered: int
    stock: int
    open: int
    verified: int
    failed: int


class CaReady(msgspec.Struct, frozen=True, kw_only=True):
    """A CA whose devices are made here. ``until``: when it may sign no more, or its chain ends, RFC 3339."""

    ca: str
    signs_here: bool
    until: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """``offline_identities``: so many devices can be done without a network; ``offline_until``: and for so long.

    ``reasons``: why the station is not ready; empty if it is.
    """

    ready: bool
    station: str
    mode: str
    offline_identities: int
    offline_until: str | None
    offline_seconds: int | None
    orders: tuple[OrderReady, ...]
    cas: tuple[CaReady, ...]
    reasons: tuple[str, ...]


def readiness_of(workspace: Workspace, station: str, failure: BirthmarkError | None = None) -> Readiness:
    """Say how long this station can go on from now. ``failure``: what has stopped it already."""
    authority = workspace.records.authority()
    mode = "authority" if authority is None else str(authority.mode)
    now = workspace.clock()
    orders = [(order, _order(workspace, order)) for order in workspace.records.orders()]
    cas = {name: _ca(workspace, name) for name in sorted({order.ca for order, _ in orders})}
    identities, ends = 0, []
    for order, shown in orders:
        usable = _usable(order, shown, mode, cas[order.ca], now)
        identities += usable
        if usable:
            ends.append(datetime.fromisoformat(cas[order.ca].until))
    until = min(ends, default=None)
    reasons = [] if failure is None else [f"{failure.message} [{failure.code}]"]
    if identities == 0 and mode != "online":
        reasons.append("no identity is left: neither in stock nor to be made here")
    return Readiness(
        ready=not reasons,
        station=station,
        mode=mode,
        offline_identities=identities,
        offline_until=None if until is None else _text(until),
        offline_seconds=None if until is None else max(0, int((until - now).total_seconds())),
        orders=tuple(shown for _, shown in orders),
        cas=tuple(cas.values()),
        reasons=tuple(reasons),
    )


def _usable(order: OrderRecord, shown: OrderReady, mode: str, ca: CaReady, now: datetime) -> int:
    """Return how many devices of an order can be done without a network."""
    if mode == "online" or datetime.fromisoformat(ca.until) <= now:
        return 0
    if order.key_origin == "injected":
        return shown.stock
    return shown.open if ca.signs_here else 0


def _order(workspace: Workspace, order: OrderRecord) -> OrderReady:
    totals = workspace.records.totals(order.order)
    return OrderReady(
        order=order.order,
        product=order.product,
        key_origin=order.key_origin,
        ordered=totals.ordered,
        stock=totals.stock,
        open=totals.open,
        verified=totals.verified,
        failed=totals.failed,
    )


def _ca(workspace: Workspace, ca: str) -> CaReady:
    from cryptography import x509

    chain = [x509.load_der_x509_certificate(der) for der in workspace.chain(ca)]
    settings = workspace.settings.cas.get(ca)
    signs_here = settings is not None and settings.key is not None
    ends = [certificate.not_valid_after_utc for certificate in chain]
    if signs_here:
        ends.append(signing_window(chain[0])[1])
    return CaReady(ca=ca, signs_here=signs_here, until=_text(min(ends)))


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
