"""What a site says it did with a device, held against the site's own log as the authority mirrors it."""

from __future__ import annotations

import hashlib
from typing import Any

from birthmark.adapters.audit.certificates import Fault
from birthmark.adapters.audit.der import certificate_spans
from birthmark.adapters.audit.entries import Document, canonical_fault, parse_head
from birthmark.adapters.audit.index import Index
from birthmark.adapters.audit.life import Life
from birthmark.adapters.audit.mirrors import Mirrors
from birthmark.adapters.audit.receipts import ReceiptCase, receipt_fault

__all__ = ["Homecoming"]

_STATES = {
    "devices_ordered": "ordered",
    "reserved": "reserved",
    "requested": "reserved",
    "abandoned": "ordered",
    "drawn": "drawn",
    "installed": "installed",
    "verified": "verified",
    "failed": "failed",
    "superseded": "ordered",
    "scrapped": "scrapped",
}
_WITH_IDENTITY = frozenset(("issued", "pooled", "drawn", "installed", "verified"))


class Homecoming:
    """Judges ``site_settled`` lines. ``receipts`` counts those that were verified."""

    def __init__(self, index: Index, mirrors: Mirrors) -> None:
        self.receipts = 0
        self._mirrors = mirrors
        self._sites = {site.site: site for site in index.sites}
        self._raised = {(site, device) for site, device, _ in index.raised}
        self._vkeys = {station.station: station.vkey for station in index.stations}

    def faults(self, life: Life, settled: dict[str, Any], certificate: bytes) -> list[Fault]:
        """Return what is wrong with one line. ``certificate``: the one the authority has for the device, or empty."""
        site, number, state = settled["site"], settled["number"], settled["state"]
        if settled["own_keys"]:
            certificate = self._made_there(life, site, number)
        found = [fault] if (fault := self._key_fault(settled, certificate)) is not None else []
        if not self._mirrors.has(site):
            return found
        head, _, attachment = (self._mirrors.entry(site, number) or b"").partition(b"\n")
        document = parse_head(head)
        if document is None or canonical_fault(head, document) is not None:
            return [*found, ("audit.mirror.entry", f"entry {number} of site {site} is not an event")]
        if (site, life.device) in self._raised and (document["type"], state) == ("verified", "installed"):
            return found  # its receipt does not hold, and that is on record
        if not _says(document, attachment, life, state):
            what = f"entry {number} of site {site} does not make it {state}"
            return [*found, ("audit.mirror.entry", what)]
        if state in _WITH_IDENTITY and not certificate:
            what = f"site {site} has it {state}, but there is no certificate of it before entry {number}"
            found.append(("audit.mirror.entry", what))
        if state == "verified":
            self.receipts += 1
            fault = self._receipt_fault(life, site, document, attachment, certificate)
            found += [] if fault is None else [fault]
        return found

    def _made_there(self, life: Life, site: str, before: int) -> bytes:
        """Return the last certificate (DER) that a site made for a device before an entry, empty if there is none."""
        entries = [seq for seq in life.at_site.get(site, ()) if seq <= before]
        return b"" if not entries else (self._mirrors.entry(site, max(entries)) or b"").partition(b"\n")[2]

    @staticmethod
    def _key_fault(settled: dict[str, Any], certificate: bytes) -> Fault | None:
        spans = certificate_spans(certificate)
        if not settled["key"] or spans is None or hashlib.sha256(spans.spki).digest() == settled["key"]:
            return None
        return "audit.site.key", f"site {settled['site']} settled it with another key than its certificate has"

    def _receipt_fault(
        self, life: Life, site: str, document: Document, receipt: bytes, certificate: bytes
    ) -> Fault | None:
        case = ReceiptCase(
            origin=self._sites[site].origin if site in self._sites else "",
            station=document["station"],
            attempt=document["attempt"],
            device_serial=life.device,
            evidence=document["evidence"],
            receipt_sha256=document["receipt_sha256"],
            vkey=self._vkeys.get(f"{site}/{document['station']}"),
            certificate=certificate,
        )
        fault = receipt_fault(receipt, case)
        return None if fault is None else (fault[0], f"at site {site}: {fault[1]}")


def _says(document: Document, attachment: bytes, life: Life, state: str) -> bool:
    """Tell whether an entry of a site brings a device into a state."""
    kind = document["type"]
    becomes = _STATES.get(kind)
    if kind in ("issued", "received"):
        becomes = "pooled" if life.key_origin == "injected" else "issued"
    if becomes != state:
        return False
    if kind == "devices_ordered":
        return life.device.encode() in attachment.split(b"\n")
    device = document.get("device")
    if device is None and kind in ("reserved", "requested"):
        return bool(document["order"] == life.order)
    return device == life.device or kind == "abandoned"
