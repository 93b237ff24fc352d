"""What the authority itself knows about the devices of a site: their orders, chunks and certificates."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256

from birthmark.model.events import DevicesOrdered, decode_entry
from birthmark.model.records import DeviceRecord, OrderRecord
from birthmark.model.siterecords import SiteRecord
from birthmark.ports import Ledger
from birthmark.workflow.homecoming.sitefindings import AuthorityRecords

__all__ = ["OwnRecord"]

_CHUNK_STATES = ("ordered", "reserved", "issued", "consigned")
_KEPT_INTENTS = 8


class OwnRecord:
    """Reads the authority's ledger for one site; certificates of a chunk are read together and kept a while."""

    def __init__(self, ledger: Ledger, records: AuthorityRecords, site: SiteRecord) -> None:
        self._ledger = ledger
        self._records = records
        self.site = site
        self._intents: OrderedDict[int, list[bytes]] = OrderedDict()
        self._chunk: dict[str, DeviceRecord] = {}
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

    def read_chunk(self, order: str, chunk: int) -> None:
        """Read the devices of a chunk for which it still speaks: certificates for all of them are about to be seen."""
        self._chunk = {}
        serials = self.chunk_devices(order, chunk)
        touched = frozenset(self._records.touched(order, chunk)) if serials else frozenset()
        untouched = [place for place in range(len(serials)) if place not in touched]
        first = self._records.device(serials[untouched[0]]) if untouched else None
        if first is None or first.position != untouched[0]:
            return
        start = None if first.issued_seq is None else first.issued_seq - first.position
        for place in untouched:
            seq = None if start is None else start + place
            self._chunk[serials[place]] = replace(first, device_serial=serials[place], position=place, issued_seq=seq)

    def device_of_chunk(self, device_serial: str) -> DeviceRecord | None:
        """Return a device of the authority, as it was when its chunk was read if that was the last one read."""
        return self._chunk.pop(device_serial, None) or self._records.device(device_serial)

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
        if device.intent is None or device.position is None or device.issued_seq is None:
            return None
        held = self._intents.get(device.intent)
        if held is None:
            first = device.issued_seq - device.position
            held = self._certificates(device.intent, first)
            if len(self._intents) >= _KEPT_INTENTS:
                self._intents.popitem(last=False)
            self._intents[device.intent] = held
        return held[device.position] if device.position < len(held) else None

    def _certificates(self, intent: int, first: int) -> list[bytes]:
        """Return the attachments of the entries of an intent that begin at ``first``: its certificates."""
        record = self._records.intent(intent)
        count = 0 if record is None else record.count
        return [entry.partition(b"\n")[2] for _, entry in self._ledger.entries(first, count)]

    def station_vkey(self, station: str) -> str | None:
        """Return the key of the receipts of a station of the site."""
        return self._stations.get(f"{self.site.site}/{station}")
