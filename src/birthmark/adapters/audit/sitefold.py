"""Sites, access, bundles and approvals, folded from their entries: what the tables must say, and what was unlawful."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from birthmark.adapters.audit import sitepapers
from birthmark.adapters.audit.certificates import Fault
from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import Assignment, Consignment, Index, Site
from birthmark.adapters.audit.issuers import Issuers

__all__ = ["SiteFold"]

_SITE_PREFIX = re.compile(r"[0-7][0-9a-f]{3}", re.ASCII)


class SiteFold:
    """Applies the events of sites in the order of the log. Of two that claim one name the first counts."""

    def __init__(self, index: Index, findings: Findings) -> None:
        self.index = index
        self.meta: dict[str, str] = {}
        self._findings = findings
        self._sites: dict[str, Site] = {}
        self._assigned: dict[str, Assignment] = {}
        self._access: dict[str, list[Any]] = {}
        self._bundles: dict[str, tuple[str, str | None, int, int]] = {}
        self._manifests: dict[str, str] = {}
        self._raised: list[tuple[Any, ...]] = []
        self._rules: list[tuple[int, int, list[str]]] = []
        self._plans: dict[str, tuple[str, int]] = {}
        self._appliers: dict[str, Callable[[int, Document, bytes], None]] = {
            "site_added": self._site_added,
            "site_stopped": self._site_stopped,
            "site_resumed": self._site_resumed,
            "access_granted": self._access_granted,
            "access_withdrawn": self._access_withdrawn,
            "order_assigned": self._order_assigned,
            "bundle_sealed": self._bundle_sealed,
            "consigned": self._consigned,
            "site_reported": self._site_reported,
            "site_settled": self._site_settled,
            "finding_raised": self._finding_raised,
            "grant_accepted": self._grant_accepted,
            "bundle_opened": self._bundle_opened,
            "bundle_closed": self._bundle_closed,
            "approvers_set": self._approvers_set,
            "approval_used": self._approval_used,
            "ca_key_destroyed": self._ca_key_destroyed,
        }

    def apply(self, seq: int, document: Document, attachment: bytes) -> None:
        """Fold one event."""
        self._appliers[document["type"]](seq, document, attachment)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return what the small tables of sites and approvals must hold, each with all columns."""
        sites = [
            (s.site, s.origin, s.vkey, s.site_prefix, s.mode, s.stopped, s.reported, s.root, s.settled, s.seq)
            for s in self._sites.values()
        ]
        return {
            "meta": list(self.meta.items()),
            "site": sites,
            "assignment": [(a.order, a.site, a.mode, a.seq) for a in self._assigned.values()],
            "access": [(key, *row) for key, row in self._access.items()],
            "bundle": [(bundle, *row) for bundle, row in self._bundles.items()],
            "finding": self._raised,
            "approvers": [(seq, threshold, "\n".join(vkeys)) for seq, threshold, vkeys in self._rules],
            "approval": [(plan, *row) for plan, row in self._plans.items()],
        }

    def check_bundles(self, received: Counter[str]) -> None:
        """Check that bundles hold what they say (I4). ``received``: certificates taken in, by their source."""
        handed: Counter[str] = Counter()
        for item in self.index.consigned:
            handed[item.bundle] += item.count
        for bundle, (order, site, devices, seq) in self._bundles.items():
            count = handed[bundle] if site is not None else received[f"bundle:{bundle}"]
            pool = site is not None or self._manifests.get(bundle) == "pool"
            if pool and count != devices:
                what = f"bundle {bundle} of order {order} says {devices} devices, the log has {count}"
                self._findings.add("audit.bundle.count", what, f"entry {seq}")

    def _unlawful(self, seq: int, what: str) -> None:
        self._findings.add("audit.entry.unlawful", f"entry {seq} {what}", f"entry {seq}")

    def _fault(self, seq: int, fault: Fault | None) -> None:
        if fault is not None:
            self._findings.add(*fault, f"entry {seq}")

    def _site_of(self, seq: int, document: Document) -> Site | None:
        site = self._sites.get(document["site"])
        if site is None:
            self._unlawful(seq, f"names site {document['site']}, which is not on record")
        return site

    # Each applier below is named after its event.

    def _site_added(self, seq: int, document: Document, request: bytes) -> None:
        fields = ("site", "origin", "vkey", "site_prefix", "mode")
        site = Site(**{field: document[field] for field in fields}, seq=seq)
        own = site.site_prefix == self.index.site_prefix or site.origin == self.index.origin
        twice = any(
            other.site == site.site or other.origin == site.origin or other.site_prefix == site.site_prefix
            for other in self._sites.values()
        )
        if own or twice or _SITE_PREFIX.fullmatch(site.site_prefix) is None:
            self._unlawful(seq, f"adds site {site.site} under a name, log or serial prefix that is taken")
            return
        self._sites[site.site] = site
        self.index.sites.append(site)
        self._fault(seq, sitepapers.request_fault(document, request))

    def _site_stopped(self, seq: int, document: Document, _: bytes) -> None:
        if (site := self._site_of(seq, document)) is not None:
            site.stopped = document["reason"]

    def _site_resumed(self, seq: int, document: Document, _: bytes) -> None:
        if (site := self._site_of(seq, document)) is not None:
            site.stopped = None

    def _access_granted(self, seq: int, document: Document, certificate: bytes) -> None:
        key, name, site = document["spki_sha256"], document["name"], document.get("site")
        if key in self._access:
            self._unlawful(seq, f"lets in a key again that {self._access[key][0]} has")
            return
        if site is not None and (site not in self._sites or name.partition("/")[0] != site):
            self._unlawful(seq, f"lets in {name} for site {site}, which it does not belong to")
        self._access[key] = [name, document["role"], site, None, seq]
        access = [authority for authority in self.index.authorities if authority.kind == "access"]
        issuers = Issuers(access, self.index.destroyed)
        self._fault(seq, sitepapers.access_fault(document, certificate, issuers, seq))

    def _access_withdrawn(self, seq: int, document: Document, _: bytes) -> None:
        row = self._access.get(document["spki_sha256"])
        if row is None or row[3] is not None:
            self._unlawful(seq, "withdraws an access that nobody has")
            return
        row[3] = document["reason"]

    def _order_assigned(self, seq: int, document: Document, _: bytes) -> None:
        site = self._site_of(seq, document)
        if site is None:
            return
        order, mode = document["order"], document["mode"]
        made = any(
            i.order == order and i.intent < seq and not self._given_up(i.intent, seq) for i in self.index.intents
        )
        if site.stopped is not None:
            self._unlawful(seq, f"gives order {order} to site {site.site}, which is stopped")
        if order in self._assigned or mode != site.mode or all(o.order != order for o in self.index.orders):
            self._unlawful(seq, f"cannot give order {order} to site {site.site} in mode {mode}")
            return
        if mode == "factory_ca" and made:
            what = f"order {order} was made here and then given to site {site.site} to sign"
            self._findings.add("audit.site.signed_here", what, f"entry {seq}")
        self._assigned[order] = Assignment(order, site.site, mode, seq)
        self.index.assignments.append(self._assigned[order])

    def _given_up(self, intent: int, seq: int) -> bool:
        return any(number == intent and entry < seq for number, entry in self.index.abandoned)

    def _bundle_sealed(self, seq: int, document: Document, _: bytes) -> None:
        site = self._site_of(seq, document)
        assigned = self._assigned.get(document["order"])
        if site is None or document["bundle"] in self._bundles:
            self._unlawful(seq, f"seals bundle {document['bundle']}, which cannot be made")
            return
        if site.stopped is not None or assigned is None or (assigned.site, assigned.mode) != (site.site, "pool"):
            self._unlawful(seq, f"seals order {document['order']} for site {site.site}, which does not make it")
        self._bundles[document["bundle"]] = (document["order"], site.site, document["devices"], seq)

    def _consigned(self, seq: int, document: Document, _: bytes) -> None:
        bundle = self._bundles.get(document["bundle"])
        if bundle is None or bundle[:1] != (document["order"],) or bundle[1] is None or not document["count"]:
            self._unlawful(seq, f"hands out devices with bundle {document['bundle']}, which is not theirs")
        fields = ("order", "chunk", "bundle", "count")
        self.index.consigned.append(Consignment(**{field: document[field] for field in fields}, seq=seq))

    def _site_reported(self, seq: int, document: Document, note: bytes) -> None:
        site = self._site_of(seq, document)
        if site is None:
            return
        if document["size"] <= site.reported:
            what = f"site {site.site} had {site.reported} entries, entry {seq} takes in a head of {document['size']}"
            self._findings.add("audit.site.head", what, f"entry {seq}")
            return
        self._fault(seq, sitepapers.head_fault(document, note, site))
        site.reported, site.root = document["size"], document["root"]

    def _site_settled(self, seq: int, document: Document, _: bytes) -> None:
        site = self._site_of(seq, document)
        if site is None:
            return
        assigned = self._assigned.get(document["order"])
        if assigned is None or assigned.site != site.site or not site.settled <= document["upto"] <= site.reported:
            what = f"settles order {document['order']} for site {site.site}, which cannot have done that"
            self._unlawful(seq, what)
        site.settled = document["upto"]

    def _finding_raised(self, seq: int, document: Document, _: bytes) -> None:
        if self._site_of(seq, document) is not None:
            site, device, entry = document["site"], document.get("device"), document.get("entry")
            self._raised.append((seq, site, document["code"], device, entry))
            self.index.raised.append((site, device, entry))

    def _grant_accepted(self, seq: int, document: Document, grant: bytes) -> None:
        if self.meta.get("authority_vkey", document["vkey"]) != document["vkey"]:
            self._unlawful(seq, f"takes {document['authority']} for its authority, but has another")
            return
        self._fault(seq, sitepapers.grant_fault(document, grant))
        self.meta.update(authority=document["authority"], authority_vkey=document["vkey"], mode=document["mode"])

    def _bundle_opened(self, seq: int, document: Document, manifest: bytes) -> None:
        if document["bundle"] in self._bundles:
            self._unlawful(seq, f"opens bundle {document['bundle']} again")
            return
        self._bundles[document["bundle"]] = (document["order"], None, document["devices"], seq)
        self._manifests[document["bundle"]] = self.meta.get("mode", "")
        if all(order.order != document["order"] for order in self.index.orders):
            self._unlawful(seq, f"opens a bundle of order {document['order']}, which is not on record")
        self._fault(seq, sitepapers.manifest_fault(document, manifest, self.meta.get("authority_vkey")))

    def _bundle_closed(self, seq: int, document: Document, _: bytes) -> None:
        if all(order.order != document["order"] for order in self.index.orders):
            self._unlawful(seq, f"closes order {document['order']}, which is not on record")
            return
        self.index.closed.append((document["order"], document["count"], seq))

    def _approvers_set(self, seq: int, document: Document, _: bytes) -> None:
        threshold, vkeys = document["threshold"], document["vkeys"]
        if not 1 <= threshold <= len(vkeys) or len(set(vkeys)) != len(vkeys):
            self._unlawful(seq, f"asks for {threshold} of {len(vkeys)} approvers")
            return
        self._rules.append((seq, threshold, vkeys))

    def _approval_used(self, seq: int, document: Document, plan: bytes) -> None:
        digest = document["plan_sha256"]
        if digest in self._plans:
            what = f"the plan {digest} was used in entry {self._plans[digest][1]} and again in entry {seq}"
            self._findings.add("audit.approval.reused", what, f"entry {seq}")
            return
        self._plans[digest] = (document["action"], seq)
        rule = self._rules[-1][1:] if self._rules else None
        for fault in sitepapers.plan_faults(document, plan, rule, self.index.origin):
            self._fault(seq, fault)

    def _ca_key_destroyed(self, seq: int, document: Document, transcript: bytes) -> None:
        if all(authority.ca != document["ca"] for authority in self.index.authorities):
            self._unlawful(seq, f"destroys the key of {document['ca']}, which is no CA")
            return
        self.index.destroyed.setdefault(document["ca"], seq)
        if hashlib.sha256(transcript).hexdigest() != document["transcript_sha256"]:
            what = f"the transcript of the destruction of {document['ca']} is not the one its event names"
            self._findings.add("audit.ca.transcript", what, f"entry {seq}")
