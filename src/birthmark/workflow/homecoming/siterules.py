"""What an entry of a site's log may say, given what the authority knows (docs/formats/report.md, findings)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from birthmark.model.device import DeviceState
from birthmark.model.events import (
    BundleSealed,
    Consigned,
    DevicesOrdered,
    Event,
    FindingRaised,
    Issued,
    OrderAssigned,
    OrderCreated,
    PossessionIntended,
    PossessionProven,
    Preloaded,
    PreloadTakenIn,
    Received,
    Registered,
    Requested,
    Reserved,
    SiteAdded,
    SiteReported,
    SiteResumed,
    SiteSettled,
    SiteStopped,
    VendorDelegated,
    WorkspaceCreated,
)
from birthmark.model.records import DeviceRecord
from birthmark.ports import SiteReplica
from birthmark.workflow.homecoming.siteauthority import OwnRecord
from birthmark.workflow.homecoming.sitefindings import AuthorityRecords, Contradiction
from birthmark.workflow.homecoming.sitetemplates import SiteTemplates

__all__ = ["AUTHORITY_ONLY", "SiteRules"]

AUTHORITY_ONLY: frozenset[type] = frozenset({
    SiteAdded, SiteStopped, SiteResumed, OrderAssigned, BundleSealed, Consigned, SiteReported, SiteSettled,
    FindingRaised, PreloadTakenIn, Preloaded, VendorDelegated, PossessionIntended, PossessionProven,
    Registered,
})  # fmt: skip
"""Events that no site writes."""
_SHOWN = 5


class SiteRules:
    """Judges lawful entries one by one, after the replica took them."""

    def __init__(
        self, own: OwnRecord, records: AuthorityRecords, replica: SiteReplica, templates: SiteTemplates
    ) -> None:
        self._own = own
        self._records = records
        self._replica = replica
        self._templates = templates
        self._site = own.site
        self._judges: dict[type, Callable[[Any, bytes], Iterator[Contradiction]]] = {
            WorkspaceCreated: self._workspace,
            OrderCreated: self._order,
            DevicesOrdered: self._devices,
            Reserved: self._reserved,
            Requested: self._requested,
            Issued: self._issued,
            Received: self._received,
        }

    def judge(self, event: Event, attachment: bytes) -> Sequence[Contradiction]:
        """Return what contradicts the record; signatures are judged elsewhere."""
        judge = self._judges.get(type(event))
        return () if judge is None else list(judge(event, attachment))

    def _workspace(self, event: WorkspaceCreated, attachment: bytes) -> Iterator[Contradiction]:
        same = (event.origin, event.site_prefix) == (self._site.origin, self._site.site_prefix)
        if not same or event.role != "site":
            yield Contradiction(
                "site.entry.unlawful",
                f"the log begins as {event.role} {event.origin} with serials {event.site_prefix}, not as was agreed",
            )

    def _order(self, event: OrderCreated, attachment: bytes) -> Iterator[Contradiction]:
        order = self._own.order(event.order)
        if order is None or self._own.assigned_mode(event.order) is None:
            yield Contradiction("site.order.foreign", f"order {event.order} is not one of this site")
            return
        if event.quantity > order.quantity:
            yield Contradiction(
                "site.quota", f"order {event.order} is for {order.quantity} devices, the site made it {event.quantity}"
            )
        ours = (order.product, order.profile, order.key_algorithm, order.key_origin)
        if (event.product, event.profile, event.key_algorithm, event.key_origin) != ours:
            yield Contradiction(
                "site.order.foreign", f"order {event.order} has another product, profile or key at the site"
            )

    def _devices(self, event: DevicesOrdered, attachment: bytes) -> Iterator[Contradiction]:
        if self._own.assigned_mode(event.order) is None:
            return
        ours = set(self._own.chunk_devices(event.order, event.chunk))
        theirs = attachment.decode("ascii", "replace").split("\n")
        foreign = [serial for serial in theirs if serial not in ours and self._is_foreign(serial, event.order)]
        if foreign:
            shown = ", ".join(foreign[:_SHOWN])
            yield Contradiction(
                "site.device.foreign",
                f"{len(foreign)} devices were added to order {event.order} that it does not have: {shown}",
                device=foreign[0],
                evidence="\n".join(foreign).encode(),
            )

    def _is_foreign(self, device_serial: str, order: str) -> bool:
        device = self._own.device(device_serial)
        return device is None or device.order != order

    def _reserved(self, event: Reserved, attachment: bytes) -> Iterator[Contradiction]:
        mode = self._own.assigned_mode(event.order)
        if mode is None:
            return
        if event.chunk is not None:
            self._own.read_chunk(event.order, event.chunk)
        if mode != "factory_ca":
            what = f"the site reserved certificates for order {event.order}, which is {mode}"
        elif not event.serial_prefix.startswith(self._site.site_prefix):
            what = f"certificate serials begin with {event.serial_prefix[:4]}, the site has {self._site.site_prefix}"
        else:
            what = self._templates.fault(event.template, event.order) or ""
        if what:
            yield Contradiction("site.certificate", what, device=event.device)

    def _requested(self, event: Requested, attachment: bytes) -> Iterator[Contradiction]:
        mode = self._own.assigned_mode(event.order)
        if mode is not None and event.chunk is not None:
            self._own.read_chunk(event.order, event.chunk)
        if mode is None or (mode == "online" and event.source == "online"):
            return
        kind, _, name = event.source.partition(":")
        bundle = self._records.bundle(name) if kind == "bundle" else None
        if bundle is None or (bundle.site, bundle.order) != (self._site.site, event.order):
            yield Contradiction(
                "site.bundle",
                f"identities of order {event.order} came from {event.source[:80]}, which was not sealed for the site",
                device=event.device,
            )

    def _issued(self, event: Issued, attachment: bytes) -> Iterator[Contradiction]:
        found = self._usable(event.device)
        if isinstance(found, Contradiction):
            yield found

    def _received(self, event: Received, attachment: bytes) -> Iterator[Contradiction]:
        device = self._usable(event.device)
        if isinstance(device, Contradiction):
            yield device
            return
        if self._own.certificate(device) == attachment:
            if self._own.assigned_mode(device.order) == "pool" and not self._left_for_site(device):
                yield Contradiction("site.bundle", "its identity was never sealed for the site", device=event.device)
        elif not self._was_replaced(device, attachment):
            yield Contradiction(
                "site.bundle" if self._own.assigned_mode(device.order) == "pool" else "site.certificate",
                "the certificate is not the one that the authority has for this device",
                device=event.device,
                evidence=attachment,
            )

    def _left_for_site(self, device: DeviceRecord) -> bool:
        if device.state is DeviceState.CONSIGNED or self._own.is_settled_here(device.device_serial):
            return True
        return device.state is DeviceState.SCRAPPED and self._ended_after_sealing(device)

    def _ended_after_sealing(self, device: DeviceRecord) -> bool:
        """Say whether the authority ended an identity that was with the site already, which could not know of it."""
        order = self._own.order(device.order)
        sealed = [bundle.seq for bundle in self._records.bundles(device.order) if bundle.site == self._site.site]
        ended = [] if order is None else self._records.revocations(order.ca)
        return any(
            revocation.device_serial == device.device_serial and revocation.seq > min(sealed, default=revocation.seq)
            for revocation in ended
        )

    def _was_replaced(self, device: DeviceRecord, certificate: bytes) -> bool:
        """Say whether the authority signed this certificate for the device before a rework gave it another."""
        return self._templates.is_own(certificate, device)

    def _usable(self, device_serial: str) -> DeviceRecord | Contradiction:
        """Return the authority's record of a device that the site may give an identity."""
        device = self._own.device_of_chunk(device_serial)
        if device is None:
            return Contradiction(
                "site.device.foreign", "an identity was made for a device that is not on record", device=device_serial
            )
        if self._own.assigned_mode(device.order) is None:
            return Contradiction(
                "site.double",
                f"an identity was made for a device of order {device.order}, which is not one of this site",
                device=device_serial,
            )
        return device
