"""Dual control, from the log alone: every guarded act stands behind an approval of exactly that act.

Guarded from the first entry where it says ``sensitive``, else from the first rule of approvers on. What the settings
ask for beyond that is not in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.findings import Findings

__all__ = ["ACT_TYPES", "check_dual_control"]

_LONGEST = timedelta(days=30)
_RESUMES = frozenset(
    ("ceremony.run", "ca.import", "site.delegate", "bundle.seal", "bundle.open", "access.grant", "preload.ingest",
     "preload.delegate", "ca.possession")
)  # fmt: skip
"""Acts that one plan covers however often they are gone on with; of all others one plan covers one."""

Wanted = list[tuple[str, "Mapping[str, str | OneOf]"]]
"""Approvals of which one is enough: action, and the facts that the plan must state."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """A fact that states several names, ``name`` among them."""

    name: str


@dataclass(slots=True)
class _Used:
    action: str
    facts: Mapping[str, str]
    spent: bool = False


def _sealed(document: Document, role: str) -> Wanted:
    return [("bundle.seal", _of(document, "order", "site"))]


def _opened(document: Document, role: str) -> Wanted:
    return [("bundle.open", _of(document, "bundle", "manifest_sha256", "order"))]


def _reworked(document: Document, role: str) -> Wanted:
    return [("device.rework", _of(document, "device", "reason"))]


def _ordered(document: Document, role: str) -> Wanted:
    if role == "site":
        return [("bundle.open", _of(document, "order"))]
    return [("order.create", _of(document, "ca", "key_algorithm", "key_origin", "order", "product", "quantity"))]


def _made_ca(document: Document, role: str) -> Wanted:
    ceremony: tuple[str, Mapping[str, str]] = ("ceremony.run", {})
    if role == "site" or document["kind"] == "access":
        return []  # a site's CAs are its authority's; the access CA comes with the first key that is let in
    if document["ca"].startswith("vendor:"):
        return [("preload.delegate", _of(document, "ca")), ("preload.ingest", {})]
    if document["kind"] == "external":
        return [ceremony, ("ca.import", {})]
    if document.get("site") is not None:
        return [ceremony, ("site.delegate", _of(document, "ca", "site"))]
    return [ceremony, ("ca.import", {"ca": document["ca"], "certificate_sha256": document["cert_sha256"]})]


def _preloaded(document: Document, role: str) -> Wanted:
    return [("preload.ingest", _of(document, "manifest_sha256", "vendor"))]


def _delegated(document: Document, role: str) -> Wanted:
    return [("preload.delegate", _of(document, "ca", "quota", "vendor"))]


def _proven(document: Document, role: str) -> Wanted:
    return [("ca.possession", {"cas": OneOf(str(document["ca"])), **_of(document, "cloud")})]


def _destroyed(document: Document, role: str) -> Wanted:
    return [("ceremony.run", {})]


def _let_in(document: Document, role: str) -> Wanted:
    if document["role"] in ("station", "server"):
        return []
    return [("access.grant", _of(document, "name", "role", "spki_sha256"))]


def _ruled(document: Document, role: str) -> Wanted:
    return [("approvers.set", _of(document, "threshold"))]


_ACTS: Mapping[str, Callable[[Document, str], Wanted]] = {
    "bundle_sealed": _sealed,
    "bundle_opened": _opened,
    "superseded": _reworked,
    "order_created": _ordered,
    "ca_created": _made_ca,
    "ca_key_destroyed": _destroyed,
    "access_granted": _let_in,
    "approvers_set": _ruled,
    "preload_taken_in": _preloaded,
    "vendor_delegated": _delegated,
    "possession_intended": _proven,
}
ACT_TYPES = frozenset(_ACTS)
"""Events that are guarded acts."""


def check_dual_control(indexed: Iterable[tuple[int, Document, bytes]], findings: Findings) -> None:
    """Find guarded acts without approval, and approvals that did not count when they were used.

    ``indexed``: entries in the order of the log, among them all of ``ACT_TYPES`` and ``approval_used`` with its plan.
    That the signatures hold and are enough is checked with the entry itself.
    """
    role, guarded, ruled = "authority", False, False
    used: list[_Used] = []
    for seq, document, attachment in indexed:
        kind = document["type"]
        if kind == "workspace_created":
            role, guarded = document.get("role", "authority"), bool(document.get("sensitive"))
        elif kind == "approval_used":
            plan = _read_plan(attachment)
            used.append(_Used(document["action"], plan))
            _check_use(seq, document, plan, findings)
        elif kind in _ACTS and (ruled if kind == "approvers_set" else guarded):
            _check_act(seq, document, _ACTS[kind](document, role), used, findings)
        if kind == "approvers_set":
            guarded = ruled = True


def _check_act(seq: int, document: Document, wanted: Wanted, used: list[_Used], findings: Findings) -> None:
    if not wanted:
        return
    for one in reversed(used):
        for action, facts in wanted:
            if one.action == action and not one.spent and all(_states(one.facts.get(n), v) for n, v in facts.items()):
                one.spent = action not in _RESUMES
                return
    device = document.get("device")
    what = f"entry {seq} ({document['type']}) needs an approval of {wanted[0][0]} for exactly this, and has none"
    findings.add("audit.approval.missing", what, f"entry {seq}", device if isinstance(device, str) else None)


def _states(stated: str | None, wanted: str | OneOf) -> bool:
    if isinstance(wanted, OneOf):
        return stated is not None and wanted.name in stated.split(" ")
    return stated == wanted


def _check_use(seq: int, document: Document, plan: Mapping[str, str], findings: Findings) -> None:
    """Check that a plan was valid when it was used, and that not the operator alone approved it."""
    until, at = _moment(plan.get("valid-until", "")), _moment(document["at"])
    if until is None or at is None or not at < until <= at + _LONGEST:
        what = f"{_shown(document)} was carried out at {document['at']} under a plan that did not count then"
        findings.add("audit.approval.expired", what, f"entry {seq}")
    approvers = document["approvers"]
    if approvers and all(name.partition("@")[0] == document["by"] for name in approvers):
        what = f"{_shown(document)} was approved by nobody but {document['by']!a}, who carried it out"
        findings.add("audit.approval.alone", what, f"entry {seq}")


def _shown(document: Document) -> str:
    return ascii(document["action"])[1:-1]


def _read_plan(note: bytes) -> Mapping[str, str]:
    """Return the lines of a plan, its facts under their names; what cannot be read states nothing."""
    text = note.partition(b"\n\n")[0].decode("utf-8", "replace")
    lines = [line.partition(": ") for line in text.split("\n")[1:]]
    facts = {name[2:]: value for name, _, value in lines if name.startswith("  ")}
    return {**facts, **{name: value for name, _, value in lines if name == "valid-until"}}


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _of(document: Document, *names: str) -> dict[str, str]:
    return {name: str(document[name]) for name in names}
