"""A second opinion on one ledger: it reads the entries from the file and keeps its own account of them.

Nothing here uses the program: JSON, SHA-256, SQLite and an X.509 parser are enough.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["Broken", "Identity", "LedgerWatch"]

_LIVE_ENDS = {"superseded", "scrapped", "failed"}
_AS_NAMED = {"drawn", "installed", "verified", "failed", "scrapped"}
"""Events that bring a device into the state of the same name."""
_QUERY = """
SELECT d.device_serial, coalesce(d.state, CASE c.state WHEN 'issued' THEN
  CASE o.key_origin WHEN 'injected' THEN 'pooled' ELSE 'issued' END ELSE c.state END)
FROM device d JOIN chunk c USING ("order", chunk) JOIN "order" o USING ("order")"""


class Broken(AssertionError):
    """An invariant does not hold. ``invariant``: its name."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant


@dataclass(slots=True)
class Identity:
    """A certificate on record, and where."""

    device: str
    spki: bytes
    cert_serial: int
    cert_sha256: str
    own: bool
    intent: int
    drawn_by: str | None = None
    is_live: bool = True


@dataclass(slots=True)
class _Intent:
    count: int
    width: int
    records: bytes
    devices: list[str]
    own: bool
    taken: int = 0


@dataclass(slots=True)
class _Device:
    order: str
    state: str = "ordered"
    touched: bool = False
    identity: Identity | None = None
    is_ended_here: bool = False
    """This ledger itself ended an identity of it."""
    verified: set[str] = field(default_factory=set)


class LedgerWatch:
    """Follows the log of one machine. ``roots[n]``: Merkle root (RFC 6962) of its first n entries."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.start_over()

    def start_over(self) -> None:
        """Forget everything, to read the log from its beginning."""
        self.size = 0
        self.shown = 0
        self.roots: list[bytes] = [sha256(b"").digest()]
        self.devices: dict[str, _Device] = {}
        self.identities: list[Identity] = []
        self.erased: list[tuple[int, int]] = []
        self.findings: list[tuple[str, str]] = []
        self.reported: dict[str, tuple[int, str]] = {}
        self._edge: list[tuple[int, bytes]] = []
        self._intents: dict[int, _Intent] = {}
        self._chunks: dict[tuple[str, int], list[str]] = {}
        self._origins: dict[str, str] = {}
        self._attempts: dict[str, str] = {}

    def look(self) -> list[Identity]:
        """Read what is new; return the new identities."""
        before = len(self.identities)
        with closing(self._database()) as database:
            size, published = database.execute("SELECT size, published FROM head").fetchone()
            self._require(size >= self.size, "heads only grow", f"{self.size} entries became {size}")
            for first, count, packed in database.execute(
                "SELECT first, count, body FROM entry WHERE first + count > ? ORDER BY first", (self.size,)
            ):
                self._row(first, count, packed)
            self._require(self.size == size, "heads only grow", f"head {size}, entries {self.size}")
            self._require(published <= size, "heads only grow", f"{published} of {size} entries are signed")
        self._checkpoint()
        return self.identities[before:]

    def look_closely(self) -> None:
        """Read the log anew and compare tables, vault and everything with it."""
        roots, size = self.roots, self.size
        self.start_over()
        self.look()
        self._require(self.size >= size and self.roots[: size + 1] == roots, "heads only grow", "the log was rewritten")
        with closing(self._database()) as database:
            told = dict(database.execute(_QUERY))
            mine = {serial: device.state for serial, device in self.devices.items()}
            differs = {s: (told.get(s), mine.get(s)) for s in told.keys() | mine.keys() if told.get(s) != mine.get(s)}
            self._require(not differs, "tables are the log", f"(table, log) {differs}")
            for intent, position in self.erased:
                row = database.execute("SELECT slot_size, slots FROM vault WHERE intent = ?", (intent,)).fetchone()
                slot = row[1][position * row[0] : (position + 1) * row[0]]
                self._require(not slot.strip(b"\0"), "erased keys are gone", f"slot {position} of intent {intent}")
            for order, quantity in database.execute('SELECT "order", quantity FROM "order"'):
                count = sum(device.order == order for device in self.devices.values())
                self._require(count == quantity, "conservation", f"order {order} of {quantity} has {count} devices")

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.root}/ledger/ledger.db?mode=ro", uri=True, isolation_level=None)

    def _require(self, holds: bool, invariant: str, detail: str) -> None:
        if not holds:
            raise Broken(invariant, f"{self.name}: {detail}")

    def _row(self, first: int, count: int, packed: bytes) -> None:
        at, number = 0, first
        while at < len(packed):
            end = at + 2 + int.from_bytes(packed[at : at + 2], "big")
            if number >= self.size:
                self._require(number == self.size, "heads only grow", f"entry {self.size} is missing")
                self._entry(packed[at + 2 : end], number)
            at, number = end, number + 1
        self._require(number == first + count, "heads only grow", f"row {first} has not {count} entries")

    def _entry(self, entry: bytes, number: int) -> None:
        self._edge.append((1, sha256(b"\0" + entry).digest()))
        while len(self._edge) > 1 and self._edge[-1][0] == self._edge[-2][0]:
            (width, right), (_, left) = self._edge.pop(), self._edge.pop()
            self._edge.append((2 * width, sha256(b"\1" + left + right).digest()))
        root = self._edge[-1][1]
        for _, left in reversed(self._edge[:-1]):
            root = sha256(b"\1" + left + root).digest()
        self.roots.append(root)
        self.size += 1
        line, _, attachment = entry.partition(b"\n")
        event = json.loads(line)
        take = getattr(self, f"_on_{event['type']}", None)
        if take is not None:
            take(event, attachment, number)

    def _checkpoint(self) -> None:
        """What is shown to the world never goes back and is a head of this log."""
        path = self.root / "log" / "checkpoint"
        if not path.exists():
            return
        _, size, root = path.read_text().split("\n")[:3]
        self._require(self.shown <= int(size) <= self.size, "heads only grow", f"shown {self.shown}, then {size}")
        self._require(base64.b64decode(root) == self.roots[int(size)], "heads are consistent", f"root of {size}")
        self.shown = int(size)

    def _on_order_created(self, event: Any, attachment: bytes, number: int) -> None:
        self._origins[event["order"]] = event["key_origin"]

    def _on_devices_ordered(self, event: Any, attachment: bytes, number: int) -> None:
        serials = attachment.decode().split("\n")
        self._chunks[event["order"], event["chunk"]] = serials
        for serial in serials:
            self._require(serial not in self.devices, "conservation", f"{serial} is ordered twice")
            self.devices[serial] = _Device(event["order"])

    def _on_reserved(self, event: Any, attachment: bytes, number: int) -> None:
        self._intend(event, attachment, number, width=72, at=8)

    def _on_requested(self, event: Any, attachment: bytes, number: int) -> None:
        self._intend(event, attachment, number, width=64, at=0)

    def _intend(self, event: Any, attachment: bytes, number: int, *, width: int, at: int) -> None:
        if event.get("device") is not None:
            devices = [event["device"]]
            self.devices[devices[0]].touched = True
        else:
            chunk = self._chunks[event["order"], event["chunk"]]
            devices = [s for s in chunk if self.devices[s].state == "ordered" and not self.devices[s].touched]
        self._require(len(attachment) == width * event["count"], "every signature is reserved", f"intent {number}")
        for serial in devices:
            self.devices[serial].state = "reserved"
        self._intents[number] = _Intent(event["count"], width, attachment, devices, own=width == 72)
        if event.get("attempt"):
            self._use(event["attempt"], event["device"])

    def _on_abandoned(self, event: Any, attachment: bytes, number: int) -> None:
        for serial in self._intents[event["intent"]].devices:
            self.devices[serial].state = "ordered"

    def _on_issued(self, event: Any, attachment: bytes, number: int) -> None:
        serial, intent = event["device"], self._intents[event["intent"]]
        place = intent.taken
        intent.taken += 1
        self._require(intent.taken <= intent.count, "every signature is reserved", f"{serial}: one more than reserved")
        record = intent.records[place * intent.width : (place + 1) * intent.width]
        certificate = x509.load_der_x509_certificate(attachment)
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        held = record[8:40] if intent.own else record[:32]
        self._require(sha256(spki).digest() == held, "every signature is reserved", f"{serial}: another key")
        if intent.own:
            tbs = sha256(certificate.tbs_certificate_bytes).digest()
            self._require(tbs == record[40:], "every signature is reserved", f"{serial}: another TBS")
        device = self.devices[serial]
        if device.identity is not None and device.identity.is_live:
            raise Broken("one live identity a device", f"{self.name}: {serial}")
        device.identity = Identity(
            serial, spki, certificate.serial_number, sha256(attachment).hexdigest(), intent.own, event["intent"]
        )
        device.state = "pooled" if self._origins[device.order] == "injected" else "issued"
        self.identities.append(device.identity)

    _on_received = _on_issued

    def _on_consigned(self, event: Any, attachment: bytes, number: int) -> None:
        for serial in self._chunks[event["order"], event["chunk"]]:
            device = self.devices[serial]
            if device.state == "pooled" and not device.touched:
                device.state = "consigned"

    def _on_drawn(self, event: Any, attachment: bytes, number: int) -> None:
        identity = self.devices[event["device"]].identity
        assert identity is not None
        self._use(event["attempt"], event["device"])
        if identity.drawn_by is not None:
            raise Broken("a drawn key is never drawn again", f"{self.name}: {event['device']}")
        identity.drawn_by = event["attempt"]
        self._move(event)

    def _on_move(self, event: Any, attachment: bytes, number: int) -> None:
        self._move(event)

    _on_installed = _on_failed = _on_scrapped = _on_move

    def _on_verified(self, event: Any, attachment: bytes, number: int) -> None:
        self._require(sha256(attachment).hexdigest() == event["receipt_sha256"], "receipts are whole", event["device"])
        self._move(event)
        device = self.devices[event["device"]]
        if device.identity is not None:
            device.verified.add(device.identity.cert_sha256)

    def _on_superseded(self, event: Any, attachment: bytes, number: int) -> None:
        self._move({**event, "type": "superseded"})

    def _move(self, event: Any) -> None:
        device, kind = self.devices[event["device"]], event["type"]
        device.state, device.touched = kind if kind in _AS_NAMED else "ordered", True
        device.is_ended_here = device.is_ended_here or kind in ("scrapped", "superseded")
        if kind in _LIVE_ENDS and device.identity is not None:
            device.identity.is_live = False

    def _on_key_erased(self, event: Any, attachment: bytes, number: int) -> None:
        intent = self._intents[event["intent"]]
        early = event["reason"] == "verified" and self.devices[event["device"]].state != "verified"
        self._require(not early, "a drawn key stays until its receipt", event["device"])
        self.erased.append((event["intent"], intent.devices.index(event["device"])))

    def _on_site_settled(self, event: Any, attachment: bytes, number: int) -> None:
        for line in attachment.decode().splitlines():
            serial, state, _, _ = line.split(" ")
            self.devices[serial].state, self.devices[serial].touched = state, True

    def _on_site_reported(self, event: Any, attachment: bytes, number: int) -> None:
        size = self.reported.get(event["site"], (0, ""))[0]
        self._require(size < event["size"], "heads only grow", f"head of {event['site']}: {size}, then {event['size']}")
        self.reported[event["site"]] = (event["size"], event["root"])

    def _on_finding_raised(self, event: Any, attachment: bytes, number: int) -> None:
        self.findings.append((event["site"], event["code"]))

    def _use(self, attempt: str, serial: str) -> None:
        self._require(self._attempts.setdefault(attempt, serial) == serial, "an attempt is used once", attempt)
