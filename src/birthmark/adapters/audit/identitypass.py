"""Second pass over a range of the log: every certificate and reservation; what concerns one device goes into shards."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from birthmark.adapters.audit.bulkrows import check_bulk_row, check_bulk_vault, record_octets
from birthmark.adapters.audit.certificates import CertificateChecker, TemplateForm
from birthmark.adapters.audit.der import certificate_spans
from birthmark.adapters.audit.entries import (
    ISSUED,
    RECORD_OCTETS,
    REQUEST_OCTETS,
    Document,
    canonical_fault,
    parse_head,
)
from birthmark.adapters.audit.identitypart import IdentityPart
from birthmark.adapters.audit.index import BulkIntent, Chunk, Index, Order, load_index
from birthmark.adapters.audit.issuers import Issuers, serial_tag
from birthmark.adapters.audit.logpass import read_range
from birthmark.adapters.audit.preloads import SOURCE, Preloads, origin_fault
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.registrations import check_registered
from birthmark.adapters.audit.settlement import check_settled
from birthmark.adapters.audit.spill import Spill, shard_of
from birthmark.errors import Tampered

__all__ = ["IdentityPart", "pass_identities"]

sha256 = hashlib.sha256
_DEVICE_SERIALS = re.compile(
    rb"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?(?:\n[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?)*"
)
_UNVERIFIED = frozenset(("audit.signature", "audit.certificate.malformed"))
_LIFE = frozenset(
    ("drawn", "installed", "verified", "admitted", "key_erased", "failed", "superseded", "revoked", "scrapped")
)


@dataclass(slots=True)
class _Intent:
    """A reservation that certificates of this range refer to. ``places``: device serial to position.

    ``source``: who signs, None if we do.
    """

    seq: int
    prefix: bytes
    records: bytes
    places: dict[str, int]
    template: str
    bulk: bool
    source: str | None = None


class _Pass:
    def __init__(self, reader: LedgerReader, index: Index, spill: Spill) -> None:
        self.reader, self.index, self.spill = reader, index, spill
        self.part = IdentityPart()
        self.orders: dict[str, Order] = {order.order: order for order in index.orders}
        self.chunks: dict[tuple[str, int], Chunk] = {(chunk.order, chunk.chunk): chunk for chunk in index.chunks}
        self.bulk: dict[int, BulkIntent] = {intent.intent: intent for intent in index.intents}
        self.abandoned = dict(index.abandoned)
        self.assigned = {item.order: item for item in index.assignments}
        self._authorities = {authority.ca: authority for authority in index.authorities}
        ours = (a for a in index.authorities if a.kind != "access" and not a.ca.startswith("vendor:"))
        self._issuers = Issuers(ours, index.destroyed)
        self._preloads = Preloads(reader, index, spill, self.part)
        self._templates = {template.template: template for template in index.templates}
        self._checkers: dict[str, CertificateChecker | None] = {}
        self._ended: dict[str, int] = {}
        """Template to the entry after which nothing may be signed with it."""
        self._intents: dict[int, _Intent | None] = {}
        self._settled_rows = bool(reader.all("SELECT 1 FROM settled LIMIT 1"))

    def entry(self, seq: int, piece: bytes) -> None:
        """Check one entry, given with its length in front."""
        feed = piece.find(b"\n", 2)
        head = piece[2:feed] if feed >= 0 else b""
        document = parse_head(head)
        if document is None or canonical_fault(head, document) is not None:
            return  # the first pass has said so
        kind = document["type"]
        attachment = piece[feed + 1 :]
        if kind in ("issued", "received"):
            self.issued(seq, kind, document["device"], document["intent"], attachment)
        elif kind == "devices_ordered":
            self._devices_ordered(seq, document, attachment)
        elif kind in ("reserved", "requested"):
            self._reserved(seq, document, attachment)
        elif kind == "preloaded":
            self.part.keys += document["count"]
            self._spill_keys(seq, self._preloads.entry(seq, document, attachment), REQUEST_OCTETS)
        elif kind == "site_settled":
            check_settled(self.reader, self.spill, seq, document, attachment, self.assigned, self.part)
        elif kind == "registered":
            check_registered(seq, document, attachment, self.part.findings, self._device_record)
        elif kind == "abandoned":
            self._abandoned(seq, document)
        elif kind in _LIFE:
            self._life(seq, kind, document, attachment)

    def _add(self, code: str, what: str, where: str, device_serial: str | None = None) -> None:
        self.part.findings.add(code, what, where, device_serial)

    def _device_record(self, device: str, seq: int, document: Document, extra: bytes) -> None:
        self.spill.record("device", shard_of(device, self.spill.shards), (device, seq, document, extra))

    def _life(self, seq: int, kind: str, document: Document, attachment: bytes) -> None:
        device = document["device"]
        if kind == "drawn":
            self._attempt(document["attempt"], device, kind, seq)
        elif kind == "revoked":
            self.part.revocations += 1
        self._device_record(device, seq, document, attachment)

    def _attempt(self, attempt: str, device: str, kind: str, seq: int) -> None:
        self.part.attempts += 1
        self.spill.record("attempt", shard_of(attempt, self.spill.shards), (attempt, device, kind, seq))

    def _abandoned(self, seq: int, document: Document) -> None:
        if document["intent"] in self.bulk:
            return
        intent = self._intent(document["intent"])
        if intent is None or intent.seq >= seq:
            self._add(
                "audit.entry.unlawful", f"entry {seq} abandons {document['intent']}, no reservation", f"entry {seq}"
            )
            return
        self._device_record(next(iter(intent.places)), seq, document, b"")

    def issued(self, seq: int, kind: str, device: str, number: int, certificate: bytes) -> None:
        """Check one certificate, issued or received for ``device`` under the reservation in entry ``number``."""
        where = f"entry {seq}"
        intent = self._intents[number] if number in self._intents else self._intent(number)
        self.part.certificates += 1
        if intent is None or intent.seq > seq or (intent.source is None) != (kind == "issued"):
            self._add("audit.intent.missing", f"device {device}: nothing was reserved in entry {number}", where, device)
            return
        octets = RECORD_OCTETS if intent.source is None else REQUEST_OCTETS
        position = intent.places.get(device)
        record = intent.records[octets * (position or 0) : octets * (position or 0) + octets]
        if position is None or len(record) != octets:
            self._add("audit.intent.missing", f"device {device} is not in the reservation {number}", where, device)
            return
        if self.abandoned.get(number, seq) < seq:
            self._add("audit.intent.abandoned", f"device {device}: intent {number} was given up", where, device)
        if intent.source is None:
            self._signed_here(seq, device, intent, record, certificate)
        elif intent.source == "adopted" or intent.source.startswith(SOURCE):
            self._preloads.received(seq, device, intent.source, record, certificate)
        else:
            self._signed_elsewhere(seq, device, intent.source, record, certificate)
        if not intent.bulk:
            document = {"type": "issued", "device": device, "intent": number}
            self._device_record(device, seq, document, sha256(certificate).digest())
            return
        base, mask = self.part.bulk.get(number, (seq - position, 0))
        if base != seq - position:
            code = "audit.intent.reused" if mask >> position & 1 else "audit.intent.incomplete"
            self._add(code, f"device {device}: entry {seq} is not where its chunk has it", where, device)
        self.part.bulk[number] = (base, mask | 1 << position)

    def _signed_here(self, seq: int, device: str, intent: _Intent, record: bytes, certificate: bytes) -> None:
        checker = self._checkers.get(intent.template) or self._checker(intent.template)
        where = f"entry {seq}"
        if checker is None:
            self._add(
                "audit.signature", f"device {device}: template {intent.template} names no known CA", where, device
            )
            return
        values = (device.encode(), intent.prefix + record[:8], record[8:40], record[40:])
        faults = () if checker.is_good(certificate, *values) else checker.faults(certificate, *values)
        self.part.signatures += 1
        for code, text in faults:
            self.part.signatures -= code in _UNVERIFIED
            self._add(code, f"the certificate of device {device} {text}", where, device)
        if seq > self._ended.get(intent.template, seq):
            what = f"the certificate of device {device} was signed after the key of its CA was destroyed or handed over"
            self._add("audit.ca.destroyed", what, where, device)

    def _signed_elsewhere(self, seq: int, device: str, source: str, record: bytes, certificate: bytes) -> None:
        faults = self._issuers.faults(certificate, device, record[:32], seq)
        self.part.signatures += 1
        self.part.received[source] += 1
        for code, text in faults:
            self.part.signatures -= code in _UNVERIFIED
            self._add(code, f"the certificate of device {device} {text}", f"entry {seq}", device)
        spans = certificate_spans(certificate)
        if spans is not None:
            tag = serial_tag(spans)
            shard = self.spill.buffer("serial", tag[0] & (self.spill.shards - 1))
            shard += tag + seq.to_bytes(8, "big")

    def _checker(self, name: str) -> CertificateChecker | None:
        if name not in self._checkers:
            template = self._templates.get(name)
            authority = self._authorities.get(template.ca) if template is not None else None
            if template is None or authority is None:
                return None
            try:
                form: TemplateForm | None = TemplateForm(template.body)
            except (ValueError, TypeError, RecursionError):
                form = None  # the verification as a whole reports it once
            self._checkers[name] = CertificateChecker(form, authority.certificate)
            if authority.site is not None and self.index.role == "authority":
                self._ended[name] = authority.seq  # its key is at the site
            elif authority.ca in self.index.destroyed:
                self._ended[name] = self.index.destroyed[authority.ca]
        return self._checkers[name]

    def _intent(self, number: int) -> _Intent | None:
        """Return the reservation in entry ``number``, read from the log."""
        if number not in self._intents:
            if len(self._intents) >= 64:
                del self._intents[next(iter(self._intents))]
            self._intents[number] = self._read_intent(number)
        return self._intents[number]

    def _read_intent(self, number: int) -> _Intent | None:
        head, _, records = (self.reader.entry(number) or b"").partition(b"\n")
        document = parse_head(head)
        if document is None or document.get("type") not in ("reserved", "requested"):
            return None
        if canonical_fault(head, document) is not None:
            return None
        prefix, template = bytes.fromhex(document.get("serial_prefix", "")), document.get("template", "")
        device, source = document.get("device"), document.get("source")
        if device is not None:
            return _Intent(number, prefix, records, {device: 0}, template, False, source)
        serials = self._device_serials(document["order"], document.get("chunk", -1))
        places = {serial: place for place, serial in enumerate(serials)}
        return _Intent(number, prefix, records, places, template, True, source)

    def _device_serials(self, order: str, number: int) -> list[str]:
        chunk = self.chunks.get((order, number))
        listed = (self.reader.entry(chunk.seq) or b"").partition(b"\n")[2] if chunk is not None else b""
        return listed.decode("ascii", "replace").split("\n")

    def _reserved(self, seq: int, document: Document, records: bytes) -> None:
        where, order, count = f"entry {seq}", self.orders.get(document["order"]), document["count"]
        device, number, octets = document.get("device"), document.get("chunk"), record_octets(document)
        chunk = self.chunks.get((document["order"], number)) if number is not None else None
        named = device is not None if number is None else (chunk is not None and chunk.seq < seq and device is None)
        if len(records) != octets * count or order is None or order.seq > seq or not named:
            self._add(
                "audit.entry.unlawful", f"entry {seq} does not reserve for an order, chunk or device", where, device
            )
            return
        if count != (1 if chunk is None else chunk.count):
            self._add(
                "audit.entry.unlawful", f"entry {seq} reserves {count} for another number of devices", where, device
            )
        source = document.get("source")
        if origin_fault(order.key_origin, source):
            what = f"an identity for order {order.order} ({order.key_origin}) comes from {source or 'our own CA'}"
            self._add("audit.preload.origin", what, where, device)
        if source is not None and source.startswith(SOURCE):
            self._preloads.bound(seq, device, source, records)
        else:
            self.part.keys += count
            self._spill_keys(seq, records, octets)
        if document["type"] == "reserved":
            self._prefix(seq, document, records)
        if device is not None:
            if document.get("attempt") is not None:
                self._attempt(document["attempt"], device, "reserved", seq)
            self._device_record(device, seq, document, records)
        elif chunk is not None:
            serials = self._device_serials(chunk.order, chunk.chunk)
            check_bulk_row(self.reader, seq, document, records, serials, self.part)
            if order.key_origin == "injected":
                check_bulk_vault(self.reader, seq, serials, self.part, partial(self._erased_slot, seq))

    def _erased_slot(self, intent: int, device: str, position: int) -> None:
        self._device_record(device, -1, {"type": "_zero", "intent": intent, "position": position}, b"")

    def _prefix(self, seq: int, document: Document, records: bytes) -> None:
        """Note the serials of a reservation to sign here, which no other site's order may have."""
        serial, where, device = bytes.fromhex(document["serial_prefix"]), f"entry {seq}", document.get("device")
        self.spill.buffer("prefix", serial[7] & (self.spill.shards - 1)).extend(serial + seq.to_bytes(8, "big"))
        if len({records[at : at + 8] for at in range(0, len(records), RECORD_OCTETS)}) != document["count"]:
            self._add("audit.serial.double", f"entry {seq} reserves one certificate serial twice", where, device)
        assigned = self.assigned.get(document["order"])
        if assigned is not None and assigned.mode == "factory_ca" and assigned.seq < seq:
            what = f"entry {seq} signs for order {assigned.order}, which site {assigned.site} signs for itself"
            self._add("audit.site.signed_here", what, where, device)

    def _spill_keys(self, seq: int, records: bytes, octets: int) -> None:
        mask, reference = self.spill.shards - 1, seq.to_bytes(8, "big")
        buffers = [self.spill.buffer("key", shard) for shard in range(self.spill.shards)]
        for position, at in enumerate(range(8 if octets == RECORD_OCTETS else 0, len(records), octets)):
            key = records[at : at + 32]
            buffers[key[0] & mask] += key + reference + position.to_bytes(2, "big")

    def _devices_ordered(self, seq: int, document: Document, listed: bytes) -> None:
        order, number, where = document["order"], document["chunk"], f"entry {seq}"
        if _DEVICE_SERIALS.fullmatch(listed) is None:
            self._add("audit.entry.unlawful", f"entry {seq} does not list device serials", where)
        serials = listed.decode("ascii", "replace").split("\n")
        if len(serials) != document["count"]:
            self._add(
                "audit.entry.unlawful", f"entry {seq} lists {len(serials)} devices, not {document['count']}", where
            )
        self.part.devices += len(serials)
        try:
            rows = self.reader.all(
                'SELECT device_serial, "order", chunk, place, state, intent, position, attempt FROM device'
                " WHERE device_serial IN (SELECT value FROM json_each(?))",
                msgspec.json.encode(serials).decode(),
            )
        except Tampered as problem:
            self._add("audit.ledger.unreadable", problem.message, f"table device, chunk {number} of {order}")
            return
        found: dict[Any, Any] = {row[0]: row for row in rows}
        untouched = (None, None, None, None)
        for place, serial in enumerate(serials):
            row = found.get(serial)
            if row is None:
                self._add(
                    "audit.fold.device", f"the row of device {serial} is missing", f"table device, {serial}", serial
                )
                continue
            if row[1:4] != (order, number, place):
                what = f"device {serial} stands as {row[1:4]!a}, entry {seq} ordered it as {(order, number, place)!a}"
                code = "audit.device.double" if self._is_ordered(serial, row) else "audit.fold.device"
                self._add(code, what, f"table device, {serial}", serial)
            if row[4:] != untouched:
                self._device_record(serial, -1, {"type": "_row"}, b"")
        if self._settled_rows:
            query = "SELECT device_serial FROM settled WHERE device_serial IN (SELECT value FROM json_each(?))"
            for (serial,) in self.reader.all(query, msgspec.json.encode(serials).decode()):
                self._device_record(serial, -1, {"type": "_settled_row"}, b"")
        if len(set(serials)) != len(serials):
            twice = next(serial for at, serial in enumerate(serials) if serial in serials[:at])
            self._add("audit.device.double", f"device {twice} is listed twice in entry {seq}", where, twice)

    def _is_ordered(self, serial: str, row: tuple[Any, ...]) -> bool:
        """Tell whether the log has the device where its row says."""
        return serial in self._device_serials(row[1], row[2])


def pass_identities(ledger: Path, scratch: Path, first: int, last: int, shards: int) -> IdentityPart:
    """Check the identities in entries ``first .. last-1``."""
    reader = LedgerReader(ledger)
    try:
        with Spill(scratch, shards) as spill:
            run = _Pass(reader, load_index(scratch / "index"), spill)
            pieces, _ = read_range(reader, first, last, None)
            for at, piece in enumerate(pieces):
                try:
                    issued = ISSUED.match(piece, 2)
                    if issued is not None:
                        device, number, kind = issued[2].decode(), int(issued[3]), issued[4].decode()
                        run.issued(first + at, kind, device, number, piece[issued.end() :])
                    elif piece:
                        run.entry(first + at, piece)
                except Tampered as problem:
                    run.part.findings.add("audit.ledger.unreadable", problem.message, f"entry {first + at}")
            return run.part
    finally:
        reader.close()
