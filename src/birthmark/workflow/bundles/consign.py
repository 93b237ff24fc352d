"""What leaves for a site is decided and put on record here, before a bundle of it is written.

``bundle_sealed`` and all ``consigned`` entries are one transaction. Power cut before it: nothing happened. After it:
the devices have left, and asking again gives the same bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from birthmark.errors import Refused
from birthmark.model.events import BundleSealed, Consigned, decode_entry, utc_text
from birthmark.model.records import OrderRecord
from birthmark.model.siterecords import AssignmentRecord, SiteRecord
from birthmark.ports import Clock, Entropy, Ledger, Records, SiteRecords
from birthmark.wire.bundle import BundleHeader
from birthmark.wire.hpke import SuiteName
from birthmark.wire.vault import VaultKey, slot_octets
from birthmark.workflow.bundles.chunks import ANY_STATE, chunks_in, device_serials_of

__all__ = ["BundleRecords", "Packing", "consign"]

_UNMADE = ("ordered", "reserved")


class BundleRecords(Records, SiteRecords, Protocol):
    """All tables."""


@dataclass(frozen=True, slots=True)
class Packing:
    """What sealing needs of the authority. ``vault_key`` opens the vault that the order's keys lie in."""

    ledger: Ledger
    records: BundleRecords
    authority: str
    vault_key: Callable[[], VaultKey]
    clock: Clock
    entropy: Entropy
    by: str


def consign(packing: Packing, *, order: str, site: str, suite: SuiteName) -> tuple[OrderRecord, BundleHeader]:
    """Put on record that the order leaves for the site; return the header of its bundle, the same every time.

    Raises ``Refused``: ``order.unknown``, ``bundle.assignment``, ``site.stopped``, ``bundle.unmade``,
    ``bundle.empty``, ``bundle.suite``.
    """
    record, assignment, place = _require(packing, order, site)
    if assignment.mode == "pool":
        return record, _pool_header(packing, record, place, suite)
    return record, _work_order(packing, record, assignment, place)


def _require(packing: Packing, order: str, site: str) -> tuple[OrderRecord, AssignmentRecord, SiteRecord]:
    records = packing.records
    record, assignment, place = records.order(order), records.assignment(order), records.site(site)
    if record is None:
        raise Refused(
            "order.unknown",
            f"there is no order {order[:60]}",
            hint="`birthmark order list` shows all; `birthmark order create` makes one.",
            order=order[:60],
        )
    if assignment is None or place is None or assignment.site != site or assignment.mode != place.mode:
        raise Refused(
            "bundle.assignment",
            f"order {order} is not assigned to site {site[:60]}",
            hint="`birthmark order assign` says which site makes an order; one site makes it, for ever.",
            order=order,
            site=site[:60],
            assigned_to=None if assignment is None else assignment.site,
        )
    if place.stopped is not None:
        raise Refused(
            "site.stopped",
            f"site {site} is stopped: {place.stopped}",
            hint="Look at its findings; `birthmark site resume` lets it work again.",
            site=site,
        )
    return record, assignment, place


def _work_order(packing: Packing, order: OrderRecord, assignment: AssignmentRecord, site: SiteRecord) -> BundleHeader:
    """The list of devices alone: nothing leaves, so nothing is recorded; the id follows from the assignment."""
    named = "\0".join(("birthmark-work-order/1", packing.authority, order.order, site.site))
    first = next(chunks_in(packing.records, order.order, ANY_STATE))
    return BundleHeader(
        bundle=sha256(named.encode()).hexdigest()[:32],
        authority=packing.authority,
        site=site.site,
        site_prefix=site.site_prefix,
        order=order.order,
        mode=assignment.mode,
        suite=None,
        slot_octets=0,
        created_at=device_serials_of(packing.ledger, first)[0].at,
    )


def _pool_header(packing: Packing, order: OrderRecord, site: SiteRecord, suite: SuiteName) -> BundleHeader:
    sealed = _sealed_before(packing, order, site) or _record(packing, order, site, suite)
    if sealed.suite != suite:
        raise Refused(
            "bundle.suite",
            f"this bundle was sealed with the suite {sealed.suite} before",
            hint=f"Say --suite {sealed.suite}: a bundle has one suite for ever.",
            suite=sealed.suite,
            bundle=sealed.bundle,
        )
    return BundleHeader(
        bundle=sealed.bundle,
        authority=packing.authority,
        site=site.site,
        site_prefix=site.site_prefix,
        order=order.order,
        mode="pool",
        suite=suite,
        slot_octets=slot_octets(order.key_algorithm),
        created_at=sealed.at,
    )


def _sealed_before(packing: Packing, order: OrderRecord, site: SiteRecord) -> BundleSealed | None:
    for known in packing.records.bundles(order.order):
        ((_, entry),) = packing.ledger.entries(known.seq, 1)
        event, _ = decode_entry(entry)
        if known.site == site.site and isinstance(event, BundleSealed):
            return event
    return None


def _record(packing: Packing, order: OrderRecord, site: SiteRecord, suite: SuiteName) -> BundleSealed:
    """Put on record what leaves, all of it in one transaction."""
    records = packing.records
    if order.key_origin != "injected" or next(chunks_in(records, order.order, _UNMADE), None) is not None:
        raise Refused(
            "bundle.unmade",
            f"not every identity of order {order.order} is made",
            hint=f"Run `birthmark order make {order.order}` first; keys born in devices do not travel in a bundle.",
            order=order.order,
        )
    leaving = [
        (chunk.chunk, count)
        for chunk in chunks_in(records, order.order, ("issued",))
        if (count := chunk.count - len(records.touched(order.order, chunk.chunk)))
    ]
    if not leaving:
        raise Refused(
            "bundle.empty",
            f"no identity of order {order.order} is left to be sealed",
            hint="`birthmark order show` tells where its devices stand.",
            order=order.order,
        )
    at, devices = utc_text(packing.clock()), sum(count for _, count in leaving)
    bundle = packing.entropy(16).hex()
    event = BundleSealed(
        at=at, bundle=bundle, order=order.order, site=site.site, devices=devices, suite=suite, by=packing.by
    )
    with packing.ledger.transaction() as tx:
        tx.append(event)
        for chunk, count in leaving:
            tx.append(Consigned(at=at, bundle=bundle, order=order.order, chunk=chunk, count=count))
    return event
