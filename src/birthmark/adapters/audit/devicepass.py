"""Third pass: the life of every device that has events of its own, one shard at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from birthmark.adapters.audit.entries import RECORD_OCTETS
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import BulkIntent, Index
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.receipts import ReceiptCase, receipt_fault
from birthmark.adapters.audit.spill import read_records

__all__ = ["DevicePart", "check_devices"]

_LIVE = frozenset(("issued", "pooled", "drawn", "installed", "verified"))
_BEFORE_FAILED = ("reserved", "issued", "pooled", "drawn", "installed")
_BEFORE_SUPERSEDED = ("failed", "issued", "pooled", "drawn", "installed", "verified")
_NEXT: Mapping[tuple[str, str], str] = {
    ("ordered", "reserved"): "reserved",
    ("reserved", "abandoned"): "ordered",
    ("reserved", "issued"): "issued",
    ("pooled", "drawn"): "drawn",
    ("drawn", "installed"): "installed",
    ("issued", "installed"): "installed",
    ("installed", "verified"): "verified",
    **{(state, "failed"): "failed" for state in _BEFORE_FAILED},
    **{(state, "superseded"): "ordered" for state in _BEFORE_SUPERSEDED},
    **{(state, "scrapped"): "scrapped" for state in (*_BEFORE_SUPERSEDED, "ordered", "reserved")},
}
"""The lawful changes, as docs/flow.md draws them."""

_COLUMNS = (
    "order", "chunk", "device_serial", "count", "template", "serial_prefix", "records", "state", "issued_seq",
)  # fmt: skip

_Event = tuple[int, dict[str, Any], bytes]


@dataclass(slots=True)
class DevicePart:
    """Counts of one shard. ``states``: (order, chunk, state) to devices; ``live``: with a valid certificate."""

    touched: int = 0
    certificate_rows: int = 0
    receipts: int = 0
    erased: int = 0
    states: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)


@dataclass(slots=True)
class _Life:
    """One device while its events are replayed. ``own`` is set from the first event that is not its chunk's."""

    device: str
    order: str
    chunk: int
    place: int
    key_origin: str
    state: str = "ordered"
    intent: int | None = None
    position: int | None = None
    attempt: str | None = None
    own: bool = False
    singles: dict[int, list[Any]] = field(default_factory=dict)
    """Intent to [document, record, state, issued entry] of reservations for this device alone."""
    certificates: dict[int, str] = field(default_factory=dict)
    """Intent to SHA-256 of the certificate issued for it, hex."""
    zeros: set[tuple[int, int]] = field(default_factory=set)
    erased: set[tuple[int, int]] = field(default_factory=set)


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

    def _add(self, life: _Life, code: str, what: str, seq: int) -> None:
        self.part.findings.add(code, f"device {life.device}: {what}", f"entry {seq}", life.device)

    def device(self, device: str, row: tuple[Any, ...] | None, events: list[_Event]) -> None:
        """Replay one device and compare its row."""
        if row is None:
            seq = min((event[0] for event in events if event[0] >= 0), default=-1)
            self.part.findings.add("audit.device.unknown", f"nobody ordered device {device}", f"entry {seq}", device)
            return
        _, order, chunk, place, *stored = row
        if not (isinstance(order, str) and isinstance(chunk, int) and isinstance(place, int) and 0 <= place < 1 << 16):
            return  # the second pass has said so
        life = _Life(device, order, chunk, place, self.origins.get(order, ""))
        for seq, document, extra in sorted([*events, *self._chunk_events(life)], key=lambda event: event[0]):
            kind = document["type"]
            if kind == "_zero":
                life.zeros.add((document["intent"], document["position"]))
            elif kind.startswith("_chunk_"):
                self._chunk_event(life, kind.removeprefix("_chunk_"), document["intent"], seq)
            elif kind != "_row":
                self._event(life, kind, document, extra, seq)
        self._compare(life, stored)
        self._check_vault(life)
        self.part.touched += 1
        self.part.states[order, chunk, life.state] += 1

    def _chunk_events(self, life: _Life) -> list[_Event]:
        found: list[_Event] = []
        for intent in self.bulk.get((life.order, life.chunk), ()):
            found.append((intent.intent, {"type": "_chunk_reserved", "intent": intent.intent}, b""))
            if intent.abandoned is not None:
                found.append((intent.abandoned, {"type": "_chunk_abandoned", "intent": intent.intent}, b""))
            if intent.issued is not None:
                found.append((intent.issued + life.place, {"type": "_chunk_issued", "intent": intent.intent}, b""))
        return found

    def _chunk_event(self, life: _Life, kind: str, intent: int, seq: int) -> None:
        if kind == "issued":
            entry = self.reader.entry(seq) or b""
            life.certificates[intent] = hashlib.sha256(entry.partition(b"\n")[2]).hexdigest()
        if life.own:
            if kind == "issued" and life.state in _LIVE and life.intent != intent:
                self._add(life, "audit.device.two_live", f"its chunk was signed while it was {life.state}", seq)
            return
        if kind == "reserved":
            life.state, life.intent = "reserved", intent
        elif kind == "abandoned":
            life.state, life.intent = "ordered", None
        else:
            life.state = "pooled" if life.key_origin == "injected" else "issued"

    def _event(self, life: _Life, kind: str, document: dict[str, Any], extra: bytes, seq: int) -> None:
        if kind == "key_erased":
            self._key_erased(life, document, seq)
            return
        if kind == "revoked":
            self._revoked(life, document, seq)
            return
        after = _NEXT.get((life.state, kind))
        if after is None:
            self._add(life, *_unlawful(life, kind), seq)
            return
        if not life.own:
            life.own, life.position = True, life.place
        held, attempt = life.attempt, document.get("attempt")
        if kind in ("installed", "verified", "failed") and held not in (None, attempt):
            self._add(life, "audit.device.state", f"{kind} by attempt {attempt}, but attempt {held} holds it", seq)
        life.state = after
        if kind in ("drawn", "installed", "verified", "failed"):
            life.attempt = attempt
        if kind == "reserved":
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
        elif kind == "verified":
            self._verified(life, document, extra, seq)

    def _settled(self, life: _Life, kind: str, document: dict[str, Any], extra: bytes, seq: int) -> None:
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

    def _verified(self, life: _Life, document: dict[str, Any], receipt: bytes, seq: int) -> None:
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
        )
        fault = receipt_fault(receipt, case)
        if fault is not None:
            self._add(life, *fault, seq)

    def _certificate(self, life: _Life) -> bytes:
        """Return the certificate of the identity in force (DER), empty if there is none."""
        single = life.singles.get(life.intent or 0)
        seq = single[3] if single is not None else None
        for bulk in self.bulk.get((life.order, life.chunk), ()):
            if bulk.intent == life.intent and bulk.issued is not None:
                seq = bulk.issued + life.place
        return b"" if seq is None else (self.reader.entry(seq) or b"").partition(b"\n")[2]

    def _key_erased(self, life: _Life, document: dict[str, Any], seq: int) -> None:
        intent = document["intent"]
        if intent in life.singles:
            life.erased.add((intent, 0))
        elif any(bulk.intent == intent for bulk in self.bulk.get((life.order, life.chunk), ())):
            life.erased.add((intent, life.place))
        else:
            self._add(life, "audit.entry.unlawful", f"a key of intent {intent} was erased, which is not its own", seq)

    def _revoked(self, life: _Life, document: dict[str, Any], seq: int) -> None:
        self._check_serial(life, document["cert_serial"], seq)
        cert_serial = bytes.fromhex(document["cert_serial"])
        rows = self.reader.all("SELECT device_serial, reason, seq FROM revoked WHERE cert_serial = ?", cert_serial)
        if rows != [(life.device, document["reason"], seq)]:
            what = f"device {life.device}: the row of revoked certificate {cert_serial.hex()} is {rows!a}"
            self.part.findings.add("audit.fold.revoked", what, f"table revoked, {cert_serial.hex()}", life.device)

    def _check_serial(self, life: _Life, cert_serial: str, seq: int) -> None:
        """Check that a certificate serial (hex) that an event ends is one of the device's own."""
        own = set()
        for intent in life.certificates:
            single = life.singles.get(intent)
            place = 0 if single is not None else RECORD_OCTETS * life.place
            records = single[1] if single is not None else (self.reader.entry(intent) or b"").partition(b"\n")[2]
            prefix = single[0]["serial_prefix"] if single is not None else self._prefix(life, intent)
            own.add(prefix + records[place : place + 8].hex())
        if cert_serial not in own:
            self._add(life, "audit.entry.unlawful", f"certificate {cert_serial} is not one of its own", seq)

    def _prefix(self, life: _Life, intent: int) -> str:
        bulk = self.bulk.get((life.order, life.chunk), ())
        return next((item.serial_prefix.hex() for item in bulk if item.intent == intent), "")

    def _compare(self, life: _Life, stored: list[Any]) -> None:
        expected: tuple[Any, ...] = (None, None, None, None)
        if life.own:
            # A device that was scrapped before anything was reserved keeps its place in the chunk.
            free = life.intent is None and stored[2] in (None, life.place)
            position = stored[2] if free else life.position
            expected = (life.state, life.intent, position, life.attempt)
        for column, is_, should in zip(("state", "intent", "position", "attempt"), stored, expected, strict=True):
            if is_ != should:
                what = f"device {life.device}: column {column} is {is_!a}, the log says {should!a}"
                self.part.findings.add("audit.fold.device", what, f"table device, {life.device}", life.device)
        for intent, single in life.singles.items():
            self._compare_single(life, intent, single)

    def _compare_single(self, life: _Life, intent: int, single: list[Any]) -> None:
        document, record, state, issued = single
        rows = self.reader.all(
            'SELECT "order", chunk, device_serial, count, template, serial_prefix, records, state, issued_seq'
            " FROM certificate WHERE intent = ?",
            intent,
        )
        prefix = bytes.fromhex(document["serial_prefix"])
        expected = (document["order"], None, life.device, 1, document["template"], prefix, record, state, issued)
        self.part.certificate_rows += len(rows)
        if not rows or rows[0] != expected:
            pairs = zip(_COLUMNS, rows[0] if rows else expected, expected, strict=True)
            differing = [name for name, is_, should in pairs if is_ != should] or ["the row"]
            what = f"device {life.device}: {', '.join(differing)} of intent {intent} differs from the log"
            self.part.findings.add("audit.fold.certificate", what, f"table certificate, intent {intent}", life.device)

    def _check_vault(self, life: _Life) -> None:
        self.part.erased += len(life.erased)
        if life.key_origin != "injected":
            return
        for intent in life.singles:
            rows = self.reader.all("SELECT slots FROM vault WHERE intent = ?", intent)
            if not rows and intent in life.certificates:
                self._vault(life, "audit.vault.missing", intent, "the pooled key is not in the vault")
            elif not rows:
                life.erased.discard((intent, 0))
            elif isinstance(rows[0][0], bytes) and not rows[0][0].strip(b"\0"):
                life.zeros.add((intent, 0))
        for intent, _ in life.zeros - life.erased:
            self._vault(life, "audit.vault.undrawn_erased", intent, "the key was erased without a record")
        for intent, _ in life.erased - life.zeros:
            self._vault(life, "audit.vault.drawn_not_erased", intent, "the record says erased, the key is still there")
        if life.state == "verified" and life.intent is not None:
            key = (life.intent, life.position or 0)
            if key not in life.erased and key not in life.zeros:
                self._vault(life, "audit.vault.drawn_not_erased", life.intent, "verified, but its key was not erased")

    def _vault(self, life: _Life, code: str, intent: int, what: str) -> None:
        self.part.findings.add(code, f"device {life.device}: {what}", f"table vault, intent {intent}", life.device)


def _unlawful(life: _Life, kind: str) -> tuple[str, str]:
    if kind == "drawn" and life.state in ("drawn", "installed", "verified"):
        return "audit.pool.drawn_twice", f"drawn again while it was {life.state}"
    if kind in ("reserved", "issued") and life.state in _LIVE:
        return "audit.device.two_live", f"{kind} while it was {life.state}"
    return "audit.device.state", f"{kind} while it was {life.state}"


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
    return lives.part
