"""The terms of an approved order: the CA signs for it what was approved, also when profile or values change later."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import msgspec

from birthmark.errors import Refused
from birthmark.model.events import ApprovalUsed, OrderCreated, decode_entry
from birthmark.model.records import OrderRecord
from birthmark.pki.profile import Profile
from birthmark.ports import Ledger, Records
from birthmark.wire.approval import Plan, parse_plan, plan_text

__all__ = ["require_approved_terms", "values_digest"]

_STATES = ("ordered", "reserved", "issued", "consigned")


def values_digest(values: Mapping[str, str]) -> str:
    """Return the SHA-256 (hex) of the product's placeholder values as canonical JSON."""
    return sha256(msgspec.json.encode(dict(values), order="sorted")).hexdigest()


def require_approved_terms(
    ledger: Ledger, records: Records, order: OrderRecord, profile: Profile, values: Mapping[str, str]
) -> None:
    """Refuse (``order.terms``) to sign for an approved order under another profile or with other values.

    An order that nobody approved (approvers were set after it) has no such terms.
    """
    plan = _approved_plan(ledger, records, order)
    if plan is None:
        return
    now = {"profile_hash": profile.profile_hash().hex(), "values_sha256": values_digest(values)}
    differing = [name for name, value in now.items() if plan.facts.get(name) != value]
    if differing:
        raise Refused(
            "order.terms",
            f"order {order.order} was approved with another {' and '.join(differing)}",
            hint="Restore profile and values as they were approved, or let a new order be approved.",
            order=order.order,
            plan_sha256=plan.sha256,
            differing=differing,
        )


def _approved_plan(ledger: Ledger, records: Records, order: OrderRecord) -> Plan | None:
    """Return the plan that stands right before the order in the log: both are of one transaction."""
    firsts = [chunk for state in _STATES for chunk in records.chunks(order.order, state, -1, 1) if chunk.chunk == 0]
    if not firsts or firsts[0].seq < 2:
        return None
    (_, before), (_, created) = ledger.entries(firsts[0].seq - 2, 2)
    event, note = decode_entry(before)
    made, _ = decode_entry(created)
    if not isinstance(made, OrderCreated) or made.order != order.order:
        return None
    if not isinstance(event, ApprovalUsed) or event.action != "order.create":
        return None
    plan = parse_plan(plan_text(note))
    return plan if plan.facts.get("order") == order.order else None
