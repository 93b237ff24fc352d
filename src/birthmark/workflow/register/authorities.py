"""Which of our CAs a cloud has to know: those that sign for devices it is told of."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from birthmark.model.records import CaRecord
from birthmark.ports import CloudAuthority
from birthmark.workflow.register.changes import FeedRecords
from birthmark.workflow.register.fold import Scope
from birthmark.workflow.register.wanted import authority_chain

__all__ = ["authorities_of", "authorities_sha256"]


def authorities_of(records: FeedRecords, scope: Scope) -> list[CloudAuthority]:
    """Return the issuing CAs of a scope, in the order in which they came on record.

    Those that were made for devices, at a site or here, and those of others that an order names. A CA that signs at a
    site for an order of another CA is in the scope of that other one as well.
    """
    cas = records.cas()
    by_name = {record.ca: record for record in cas}
    orders = [order for order in records.orders() if scope.holds(order.ca, order.product)]
    ordered = {order.ca for order in orders}
    sites = {found.site for order in orders if (found := records.assignment(order.order)) is not None}
    chosen = [record for record in cas if _signs(record, scope, ordered, sites)]
    return [CloudAuthority(one.ca, (one.certificate,), authority_chain(one, by_name)) for one in chosen]


def _signs(record: CaRecord, scope: Scope, ordered: set[str], sites: set[str]) -> bool:
    if record.kind not in ("issuing", "external"):
        return False
    if record.ca in ordered or (record.site is not None and record.site in sites):
        return True
    named = scope.cas is None or record.ca in scope.cas
    return record.kind == "issuing" and record.site is None and named


def authorities_sha256(authorities: Sequence[CloudAuthority]) -> str:
    """Return a hash (hex) that is equal for the same CAs with the same certificates, in any order."""
    lines = sorted(f"{one.name} {sha256(b''.join(one.certificates)).hexdigest()}\n" for one in authorities)
    return sha256("".join(lines).encode()).hexdigest()
