"""What the log says of a period, counted once: the facts an auditor asks for (shown by ``shell/web``).

One pass over the entries; memory grows with the number of days, operators and kinds, not with that of devices, unless
the report is about some orders only: then it holds their device serials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from birthmark.model import events as e
from birthmark.model.events import decode_entry, event_types
from birthmark.model.records import OrderRecord, OrderTotals
from birthmark.ports import Ledger, Records, SiteRecords
from birthmark.wire.receipt import cloud_in

__all__ = ["CaFact", "Evidence", "OrderFact", "Scope", "SiteFact", "collect_evidence"]

_STEP = 4096


@dataclass(frozen=True, slots=True)
class Scope:
    """What a report is about: a period (``since <= at < until``, RFC 3339 UTC text or None), orders or a site."""

    orders: tuple[str, ...] = ()
    site: str | None = None
    since: str | None = None
    until: str | None = None

    def holds(self, at: str) -> bool:
        """Say whether a moment is in the period."""
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


@dataclass(frozen=True, slots=True)
class OrderFact:
    """One order and where its devices are. ``site``: who makes it, None for this place."""

    order: OrderRecord
    totals: OrderTotals
    site: str | None


@dataclass(frozen=True, slots=True)
class CaFact:
    """One CA. ``certificate``: DER; ``event``: how it came on record."""

    event: e.CaCreated
    certificate: bytes
    entry: int


@dataclass(frozen=True, slots=True)
class SiteFact:
    """One site: what it reported, and the findings against it."""

    site: str
    mode: str
    stopped: str | None
    reported: int
    settled: int
    findings: tuple[tuple[str, str | None, int | None], ...]


@dataclass(slots=True)
class Evidence:
    """The counted facts. Times are the ``at`` of events; counters are by the name that their field says."""

    workspace: str = ""
    origin: str = ""
    role: str = "authority"
    sensitive: bool = False
    first_at: str = ""
    last_at: str = ""
    entries: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    by_operator: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_station: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_day: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_target: Counter[str] = field(default_factory=Counter)
    by_proof: Counter[str] = field(default_factory=Counter)
    by_cloud: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    erasures: Counter[str] = field(default_factory=Counter)
    revocations: Counter[str] = field(default_factory=Counter)
    linters: Counter[str] = field(default_factory=Counter)
    accepted_findings: Counter[str] = field(default_factory=Counter)
    profiles: dict[str, str] = field(default_factory=dict)
    software: list[tuple[str, str]] = field(default_factory=list)
    cas: list[CaFact] = field(default_factory=list)
    approvals: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    destroyed: list[tuple[str, str, str]] = field(default_factory=list)
    orders: list[OrderFact] = field(default_factory=list)
    sites: list[SiteFact] = field(default_factory=list)

    @property
    def silent_types(self) -> list[str]:
        """Event types that exist and did not occur."""
        return [tag for tag in event_types() if not self.by_type[tag]]

    def total(self, name: str) -> int:
        """Sum one column of ``OrderTotals`` over the orders."""
        return sum(int(getattr(fact.totals, name)) for fact in self.orders)


class _Sites(Records, SiteRecords):
    """Records of devices and of sites: what one ledger offers."""


def collect_evidence(
    ledger: Ledger, records: _Sites, scope: Scope, *, progress: Callable[[int], None] = lambda count: None
) -> Evidence:
    """Read the log once and count. ``progress`` gets the number of entries read since the last call."""
    chosen = _orders(records, scope)
    found = Evidence(orders=chosen)
    pass_ = _Pass(found, scope, {fact.order.order for fact in chosen} if scope.orders or scope.site else None)
    size = ledger.head().size
    for first in range(0, size, _STEP):
        step = 0
        for seq, entry in ledger.entries(first, _STEP):
            pass_.take(seq, *decode_entry(entry))
            step += 1
        progress(step)
    found.sites = [
        SiteFact(
            site.site,
            site.mode,
            site.stopped,
            site.reported,
            site.settled,
            tuple((item.code, item.device_serial, item.entry) for item in records.findings(site.site)),
        )
        for site in records.sites()
        if scope.site in (None, site.site)
    ]
    return found


def _orders(records: _Sites, scope: Scope) -> list[OrderFact]:
    facts = []
    for order in records.orders():
        assigned = records.assignment(order.order)
        site = None if assigned is None else assigned.site
        if (not scope.orders or order.order in scope.orders) and scope.site in (None, site):
            facts.append(OrderFact(order, records.totals(order.order), site))
    return facts


class _Pass:
    """Counts one entry after the other."""

    def __init__(self, found: Evidence, scope: Scope, orders: set[str] | None) -> None:
        self._found = found
        self._scope = scope
        self._orders = orders
        self._devices: set[str] = set()

    def take(self, seq: int, event: e.Event, attachment: bytes) -> None:
        """Count one entry. Names and CAs count whenever they came on record, all else if it is in the scope."""
        self._stand(seq, event, attachment)
        if not self._scope.holds(event.at) or not self._concerns(event):
            return
        found = self._found
        found.entries += 1
        found.first_at, found.last_at = found.first_at or event.at, event.at
        tag = str(type(event).__struct_config__.tag)
        found.by_type[tag] += 1
        if (by := getattr(event, "by", None)) is not None:
            found.by_operator[by, tag] += 1
        self._on_the_line(event, attachment)
        self._of_the_authority(event)

    def _concerns(self, event: e.Event) -> bool:
        if self._orders is None:
            return True
        device, order = getattr(event, "device", None), getattr(event, "order", None)
        if order is not None:
            return order in self._orders
        return device in self._devices if device is not None else not isinstance(event, e.Abandoned)

    def _stand(self, seq: int, event: e.Event, attachment: bytes) -> None:
        found = self._found
        match event:
            case e.WorkspaceCreated():
                found.workspace, found.origin = event.workspace, event.origin
                found.role, found.sensitive = event.role, event.sensitive
                found.software.append((event.at, event.software))
            case e.SoftwareChanged():
                found.software.append((event.at, event.software))
            case e.CaCreated():
                found.cas.append(CaFact(event, attachment, seq))
            case e.DevicesOrdered() if self._orders is not None and event.order in self._orders:
                self._devices.update(attachment.decode("ascii", "replace").split("\n"))
            case _:
                pass

    def _on_the_line(self, event: e.Event, attachment: bytes) -> None:
        found = self._found
        match event:
            case e.Installed():
                found.by_target[event.target.partition(":")[0]] += 1
            case e.Verified():
                found.by_proof[event.evidence] += 1
                found.by_station[event.station, "verified"] += 1
                found.by_day[event.at[:10], "verified"] += 1
                if (cloud := cloud_in(attachment)) is not None:
                    found.by_cloud[cloud.service] += 1
            case e.Admitted():
                found.by_cloud[event.service] += 1
            case e.Failed():
                found.failures[event.code] += 1
                found.by_station[event.station, "failed"] += 1
                found.by_day[event.at[:10], "failed"] += 1
            case e.Rejected():
                found.rejections[event.code] += 1
                found.by_station[event.station, "rejected"] += 1
            case e.KeyErased():
                found.erasures[event.reason] += 1
            case _:
                pass

    def _of_the_authority(self, event: e.Event) -> None:
        found = self._found
        match event:
            case e.TemplateAdmitted():
                found.linters[event.linter] += 1
                found.profiles[event.profile] = event.profile_hash
                found.accepted_findings.update(event.findings_allowed)
            case e.Revoked():
                found.revocations[event.reason] += 1
            case e.ApprovalUsed():
                found.approvals.append((event.at, event.action, tuple(event.approvers)))
            case e.CaKeyDestroyed():
                found.destroyed.append((event.at, event.ca, event.by))
            case _:
                pass
