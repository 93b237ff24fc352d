"""What the authority itself knows about the devices of a site: their orders, chunks and certificates."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from hashlib import sha256

from birthmark.model.events import DevicesOrdered, Issued, Received, decode_entry
from birthmark.model.records import DeviceRecord, OrderRecord
from birthmark.model.siterecords import SiteRecord
from birthmark.ports import Ledger
from birthmark.workflow.sitefindings import AuthorityRecords

__all__ = ["OwnRecord"]

_CHUNK_STATES = ("ordered", "reserved", "issued", "consigned")
_KEPT_INTENTS = 8


class OwnRecord:
    """Reads the authority's ledger for one site; certificates of a chunk are read together and kept a while."""

    def __init__(self, ledger: Ledger, records: AuthorityRecords, site: SiteRecord) -> None:
        self._ledger = ledger
        self._records = records
        self.site = site
        self._intents: OrderedDict[int, dict[str, bytes]] = OrderedDict()
        self._stations = records.stations()
        self.delegated = {
            sha256(ca.certificate).hexdigest(): ca.certificate for ca in records.cas() if ca.site == site.site
        }
        """Certificates (DER) of the CAs whose keys the site holds, by their SHA-256 in hex."""
        self.assigned_mode = lru_cache(1024)(self._assigned_mode)
        self.order = lru_cache(1024)(self._order)

    def _assigned_mode(self, order: str) -> str | None:
        """Return the mode in which the site makes an order, None if it is not assigned to it."""
        assigned = self._records.assignment(order)
        return assigned.mode if assigned is not None and assigned.site == self.site.site else None

    def _order(self, order: str) -> OrderRecord | None:
        return self._records.order(order)

    def device(self, device_serial: str) -> DeviceRecord | None:
        """Return a device of the authority."""
        return self._records.device(device_serial)

    def is_settled_here(self, device_serial: str) -> bool:
        """Say whether the site brought this device to its state before."""
        settled = self._records.settled(device_serial)
        return settled is not None and settled.site == self.site.site

    def chunk_devices(self, order: str, chunk: int) -> list[str]:
        """Return the devices of a chunk in their order, none if there is no such chunk."""
        for state in _CHUNK_STATES:
            for record in self._records.chunks(order, state, chunk - 1, 1):
                if record.chunk == chunk:
                    for _, entry in self._ledger.entries(record.seq, 1):
                        event, attachment = decode_entry(entry)
                        if isinstance(event, DevicesOrdered):
                            return attachment.decode("ascii", "replace").split("\n")
        return []

    def certificate(self, device: DeviceRecord) -> bytes | None:
        """Return the certificate (DER) that the authority has for a device."""
        if device.intent is None or device.issued_seq is None:
            return None
        held = self._intents.get(device.intent)
        if held is None:
            held = self._certificates(device.intent)
            if len(self._intents) >= _KEPT_INTENTS:
                self._intents.popitem(last=False)
            self._intents[device.intent] = held
        return held.get(device.device_serial)

    def _certificates(self, intent: int) -> dict[str, bytes]:
        record = self._records.intent(intent)
        if record is None or record.issued_seq is None:
            return {}
        found = {}
        for _, entry in self._ledger.entries(record.issued_seq, record.count):
            event, certificate = decode_entry(entry)
            if isinstance(event, Issued | Received) and event.intent == intent:
                found[event.device] = certificate
        return found

    def station_vkey(self, station: str) -> str | None:
        """Return the key of the receipts of a station of the site."""
        return self._stations.get(f"{self.site.site}/{station}")
