"""Third pass: the life of every device that has events of its own, one shard at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from birthmark.adapters.audit.der import certificate_spans
from birthmark.adapters.audit.devicerows import DeviceRows
from birthmark.adapters.audit.entries import RECORD_OCTETS
from birthmark.adapters.audit.homecoming import Homecoming
from birthmark.adapters.audit.index import BulkIntent, Consignment, Index
from birthmark.adapters.audit.life import LIVE, NEXT, DevicePart, Life, unlawful
from birthmark.adapters.audit.mirrors import Mirrors
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.receipts import ReceiptCase, receipt_fault
from birthmark.adapters.audit.registrations import registered_fault
from birthmark.adapters.audit.spill import read_records

__all__ = ["check_devices"]

_Event = tuple[int, dict[str, Any], bytes]


class _Lives:
    def __init__(self, reader: LedgerReader, index: Index) -> None:
        self.reader = reader
        self.part = DevicePart()
        self.origin = index.origin
        self.origins = {order.order: order.key_origin for order in index.orders}
        self.vkeys = {station.station: station.vkey for station in index.stations}
        self.bulk: dict[tuple[str, int], list[BulkIntent]] = {}
        for intent in index.intents:
            self.bulk.setdefault((intent.order, intent.chunk), []).append(intent)
        self.consigned: dict[tuple[str, int], list[Consignment]] = {}
        for item in index.consigned:
            self.consigned.setdefault((item.order, item.chunk), []).append(item)
        self.assigned = {item.order: item for item in index.assignments}
        self.prefixes = {site.site: site.site_prefix for site in index.sites}
        self.raised = {site for site, _, _ in index.raised}
        self.rows = DeviceRows(reader, self.part)
        self.homecoming = Homecoming(index, Mirrors(reader.path.parent.parent))

    def _add(self, life: Life, code: str, what: str, seq: int) -> None:
        self.part.findings.add(code, f"device {life.device}: {what}", f"entry {seq}", life.device)

    def device(self, device: str, row: tuple[Any, ...] | None, events: list[_Event]) -> None:
        """Replay one device and compare its row."""
        if row is None:
            if all(event[1]["type"] == "_site" for event in events):
                self._foreign(device, events)
                return
            seq = min((event[0] for event in events if event[0] >= 0), default=-1)
            self.part.findings.add("audit.device.unknown", f"nobody ordered device {device}", f"entry {seq}", device)
            return
        _, order, chunk, place, *stored = row
        if not (isinstance(order, str) and isinstance(chunk, int) and isinstance(place, int) and 0 <= place < 1 << 16):
            return  # the second pass has said so
        life = Life(device, order, chunk, place, self.origins.get(order, ""))
        for seq, document, extra in sorted([*events, *self._chunk_events(life)], key=lambda event: event[0]):
            kind = document["type"]
            if kind == "_zero":
                life.zeros.add((document["intent"], document["position"]))
            elif kind == "_settled_row":
                life.settled_row = True
            elif kind == "_site":
                life.at_site.setdefault(document["site"], []).append(document["number"])
            elif kind.startswith("_chunk_"):
                self._chunk_event(life, kind.removeprefix("_chunk_"), document["intent"], seq)
            elif kind != "_row":
                self._event(life, kind, document, extra, seq)
        self.rows.compare(life, stored)
        self.part.touched += 1
        self.part.states[order, chunk, life.state] += 1

    def _foreign(self, device: str, events: list[_Event]) -> None:
        """Name a device that only a site knows, unless the authority has findings about that site already."""
        for _, document, _ in events:
            site = document["site"]
            if site not in self.raised:
                what = f"site {site} made an identity for device {device}, which nobody ordered"
                where = f"sites/{site}/log/entry {document['number']}"
                self.part.findings.add("audit.mirror.entry", what, where, device)

    def _chunk_events(self, life: Life) -> list[_Event]:
        found: list[_Event] = []
        for intent in self.bulk.get((life.order, life.chunk), ()):
            found.append((intent.intent, {"type": "_chunk_reserved", "intent": intent.intent}, b""))
            if intent.abandoned is not None:
                found.append((intent.abandoned, {"type": "_chunk_abandoned", "intent": intent.intent}, b""))
            if intent.issued is not None:
                found.append((intent.issued + life.place, {"type": "_chunk_issued", "intent": intent.intent}, b""))
        for item in self.consigned.get((life.order, life.chunk), ()):
            found.append((item.seq, {"type": "_chunk_consigned", "intent": -1}, b""))
        return found

    def _chunk_event(self, life: Life, kind: str, intent: int, seq: int) -> None:
        if kind == "issued":
            entry = self.reader.entry(seq) or b""
            life.certificates[intent] = hashlib.sha256(entry.partition(b"\n")[2]).hexdigest()
        if life.own:
            if kind == "consigned":
                self.part.taken[life.order, life.chunk] += 1
            if kind == "issued" and life.state in LIVE and life.intent != intent:
                self._add(life, "audit.device.two_live", f"its chunk was signed while it was {life.state}", seq)
            return
        if kind == "reserved":
            life.state, life.intent = "reserved", intent
        elif kind == "abandoned":
            life.state, life.intent = "ordered", None
        elif kind == "consigned":
            life.state = "consigned"
        else:
            life.state = "pooled" if life.key_origin == "injected" else "issued"

    def _event(self, life: Life, kind: str, document: dict[str, Any], extra: bytes, seq: int) -> None:
        if kind == "key_erased":
            self._key_erased(life, document, seq)
            return
        if kind == "revoked":
            self._revoked(life, document, seq)
            return
        if kind == "registered":
            fault = registered_fault(life, document, seq)
            if fault is not None:
                self._add(life, *fault, seq)
            return
        if kind == "settled":
            self._settled_by_site(life, document, seq)
            return
        if kind == "requested":
            kind = "reserved"
        after = NEXT.get((life.state, kind))
        if after is None:
            self._add(life, *unlawful(life, kind), seq)
            return
        if not life.own:
            life.own, life.position = True, life.place
        held, attempt = life.attempt, document.get("attempt")
        if kind in ("installed", "verified", "admitted", "failed") and held not in (None, attempt):
            self._add(life, "audit.device.state", f"{kind} by attempt {attempt}, but attempt {held} holds it", seq)
        if kind == "drawn":
            self._check_drawer(life, document["station"], seq)
        life.state = after
        if kind in ("drawn", "installed", "verified", "admitted", "failed"):
            life.attempt = attempt
        if kind == "reserved":
            if document["order"] != life.order:
                self._add(life, "audit.device.state", f"reserved for order {document['order']}, not its own", seq)
            life.singles[seq] = [document, extra, "reserved", None]
            life.intent, life.position, life.attempt = seq, 0, attempt
        elif kind in ("abandoned", "superseded"):
            life.intent = life.position = life.attempt = None
        if kind in ("abandoned", "issued"):
            self._settled(life, kind, document, extra, seq)
        elif kind == "superseded" and document.get("cert_serial") is not None:
            self._check_serial(life, document["cert_serial"], seq)
        elif kind == "installed":
            if document["cert_sha256"] != life.certificates.get(life.intent or 0):
                self._add(life, "audit.device.certificate", "another certificate was installed than was issued", seq)
        elif kind in ("verified", "admitted"):
            self._verified(life, document, extra, seq)

    def _check_drawer(self, life: Life, station: str, seq: int) -> None:
        """Check that what a site makes is drawn by that site's stations, or not here at all."""
        assigned = self.assigned.get(life.order)
        if assigned is None or assigned.seq > seq:
            return
        if assigned.mode != "online" or station.partition("/")[0] != assigned.site:
            self._add(life, "audit.site.drawn_here", f"drawn by {station}, but made at site {assigned.site}", seq)

    def _settled_by_site(self, life: Life, document: dict[str, Any], seq: int) -> None:
        if life.state == "scrapped" or document["order"] != life.order:
            self._add(life, "audit.device.state", f"settled for {document['order']} while it was {life.state}", seq)
            return
        if not life.own:
            life.own, life.position = True, None if life.intent is None else life.place
        life.state, life.settled = document["state"], document
        life.verified |= life.state == "verified"
        for fault in self.homecoming.faults(life, document, self._certificate(life)):
            self._add(life, *fault, seq)

    def _settled(self, life: Life, kind: str, document: dict[str, Any], extra: bytes, seq: int) -> None:
        intent = document["intent"]
        single = life.singles.get(intent)
        if single is None or single[2] != "reserved":
            self._add(life, "audit.intent.reused", f"intent {intent} is not open", seq)
            return
        single[2] = kind
        if kind == "issued":
            single[3], life.intent = seq, intent
            life.certificates[intent] = extra.hex()
            life.state = "pooled" if life.key_origin == "injected" else "issued"

    def _verified(self, life: Life, document: dict[str, Any], receipt: bytes, seq: int) -> None:
        life.verified = True
        self.part.receipts += 1
        case = ReceiptCase(
            origin=self.origin,
            station=document["station"],
            attempt=document["attempt"],
            device_serial=life.device,
            evidence=document["evidence"],
            receipt_sha256=document["receipt_sha256"],
            vkey=self.vkeys.get(document["station"]),
            certificate=self._certificate(life),
            service=document.get("service"),
        )
        fault = receipt_fault(receipt, case)
        if fault is not None:
            self._add(life, *fault, seq)

    def _certificate(self, life: Life) -> bytes:
        """Return the certificate of the identity in force (DER), empty if there is none."""
        single = life.singles.get(life.intent or 0)
        seq = single[3] if single is not None else None
        for bulk in self.bulk.get((life.order, life.chunk), ()):
            if bulk.intent == life.intent and bulk.issued is not None:
                seq = bulk.issued + life.place
        return b"" if seq is None else (self.reader.entry(seq) or b"").partition(b"\n")[2]

    def _key_erased(self, life: Life, document: dict[str, Any], seq: int) -> None:
        if life.state == "pooled":
            self.part.closed[life.order] += 1
        intent = document["intent"]
        if intent in life.singles:
            life.erased.add((intent, 0))
        elif any(bulk.intent == intent for bulk in self.bulk.get((life.order, life.chunk), ())):
            life.erased.add((intent, life.place))
        else:
            self._add(life, "audit.entry.unlawful", f"a key of intent {intent} was erased, which is not its own", seq)

    def _revoked(self, life: Life, document: dict[str, Any], seq: int) -> None:
        self._check_serial(life, document["cert_serial"], seq)
        cert_serial = bytes.fromhex(document["cert_serial"])
        rows = self.reader.all("SELECT device_serial, reason, seq FROM revoked WHERE cert_serial = ?", cert_serial)
        if rows != [(life.device, document["reason"], seq)]:
            what = f"device {life.device}: the row of revoked certificate {cert_serial.hex()} is {rows!a}"
            self.part.findings.add("audit.fold.revoked", what, f"table revoked, {cert_serial.hex()}", life.device)

    def _check_serial(self, life: Life, cert_serial: str, seq: int) -> None:
        """Check that a certificate serial (hex) that an event ends is one of the device's own."""
        if life.settled is not None and life.settled["own_keys"] and cert_serial.startswith(self._site_prefix(life)):
            return  # the certificate is in the log of that site
        if cert_serial not in {serial for intent in life.certificates for serial in self._serials(life, intent)}:
            self._add(life, "audit.entry.unlawful", f"certificate {cert_serial} is not one of its own", seq)

    def _site_prefix(self, life: Life) -> str:
        site = "" if life.settled is None else life.settled["site"]
        return self.prefixes.get(site, "none")

    def _serials(self, life: Life, intent: int) -> Iterable[str]:
        """Yield the serial (hex) of the certificate of an intent; one of another signer also without a leading zero."""
        single = life.singles.get(intent)
        bulk = next((item for item in self.bulk.get((life.order, life.chunk), ()) if item.intent == intent), None)
        source = single[0].get("source") if single is not None else bulk.source if bulk is not None else None
        if source is not None:
            seq = single[3] if single is not None else None if bulk is None else bulk.issued
            place = 0 if single is not None else life.place
            spans = certificate_spans((self.reader.entry((seq or 0) + place) or b"").partition(b"\n")[2])
            if spans is not None:
                yield spans.cert_serial.hex()
                yield spans.cert_serial.lstrip(b"\0").hex()
            return
        at = 0 if single is not None else RECORD_OCTETS * life.place
        records = single[1] if single is not None else (self.reader.entry(intent) or b"").partition(b"\n")[2]
        prefix = single[0]["serial_prefix"] if single is not None else "" if bulk is None else bulk.serial_prefix.hex()
        yield prefix + records[at : at + 8].hex()


def check_devices(reader: LedgerReader, index: Index, scratch: Path, shard: int) -> DevicePart:
    """Replay every device of a shard."""
    events: dict[str, list[_Event]] = {}
    for device, seq, document, extra in read_records(scratch, "device", shard):
        events.setdefault(device, []).append((seq, document, extra))
    lives = _Lives(reader, index)
    names = sorted(events)
    for at in range(0, len(names), 512):
        batch = names[at : at + 512]
        rows = reader.all(
            'SELECT device_serial, "order", chunk, place, state, intent, position, attempt FROM device'
            " WHERE device_serial IN (SELECT value FROM json_each(?))",
            msgspec.json.encode(batch).decode(),
        )
        found = {row[0]: row for row in rows}
        for device in batch:
            lives.device(device, found.get(device), events[device])
    lives.part.receipts += lives.homecoming.receipts
    return lives.part
