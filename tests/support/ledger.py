"""Writes lawful stories into any ledger, with made-up keys and certificates: a ledger looks at neither."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.model import events as e
from birthmark.ports import SealedChunk

__all__ = ["AT", "ORIGIN", "SITE_PREFIX", "SLOT", "Author", "TestClock", "create_sqlite", "keys_of", "serials"]

ORIGIN, SITE_PREFIX, SLOT = "birthmark/test/ledger", bytes.fromhex("0102"), 40
AT = "2026-11-24T02:10:11.123Z"
_numbers = itertools.count()


class TestClock:
    """A clock that stands still until it is moved, also back."""

    __test__ = False

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **step: float) -> None:
        self.now += timedelta(**step)


def create_sqlite(path: Path, clock: TestClock) -> SqliteLedger:
    """Return a new ledger with its first entry."""
    first = e.WorkspaceCreated(
        at=AT, workspace="test", origin=ORIGIN, site_prefix=SITE_PREFIX.hex(), software="0.1.0", by="tester"
    )
    return SqliteLedger.create(path, first=first, clock=clock)


def serials(prefix: str, count: int) -> list[str]:
    """Return ``count`` device serials."""
    return [f"{prefix}-{number:05d}" for number in range(count)]


def make_records(count: int) -> bytes:
    """Return ``count`` records nobody has seen before: random 8 | SPKI SHA-256 32 | TBS SHA-256 32."""
    parts = (hashlib.shake_128(b"%d" % next(_numbers)).digest(72) for _ in range(count))
    return b"".join(parts)


def keys_of(records: bytes) -> list[bytes]:
    """Return the SPKI hashes of records."""
    return [records[at + 8 : at + 40] for at in range(0, len(records), 72)]


@dataclass
class Author:
    """Knows how to say everything; ``said`` is what a transaction acknowledged."""

    ledger: Any
    said: list[tuple[int, bytes]] = field(default_factory=list)

    def say(self, *events: e.Event, attachment: bytes = b"") -> int:
        """Append events in one transaction; return the number of the last."""
        with self.ledger.transaction() as tx:
            numbers = [tx.append(event, attachment) for event in events]
        self.said += [(seq, e.encode_entry(event, attachment)) for seq, event in zip(numbers, events, strict=True)]
        return numbers[-1]

    def order(
        self, name: str, devices: list[str], *, origin: Literal["injected", "device"] = "injected", chunk: int = 4
    ) -> None:
        """Order devices, ``chunk`` to a chunk, in one transaction."""
        parts = [devices[at : at + chunk] for at in range(0, len(devices), chunk)]
        created = e.OrderCreated(
            at=AT, order=name, product="probe", profile="tls-client", key_algorithm="p256", key_origin=origin,
            ca="issuing", quantity=len(devices), chunks=len(parts), by="tester",
        )  # fmt: skip
        said = [(created, b"")]
        for number, part in enumerate(parts):
            event = e.DevicesOrdered(at=AT, order=name, chunk=number, first=number * chunk, count=len(part))
            said.append((event, "\n".join(part).encode()))
        with self.ledger.transaction() as tx:
            numbers = [tx.append(event, attachment) for event, attachment in said]
        self.said += [(n, e.encode_entry(*item)) for n, item in zip(numbers, said, strict=True)]

    def prefix(self) -> bytes:
        """Take one certificate serial prefix."""
        with self.ledger.transaction() as tx:
            (prefix,) = tx.serial_prefixes(1)
        return bytes(prefix)

    def reserve(
        self, order: str, *, chunk: int | None = None, device: str | None = None, attempt: str | None = None,
        count: int = 1, records: bytes | None = None, prefix: bytes | None = None,
    ) -> int:  # fmt: skip
        """Reserve a chunk or a device; return the intent."""
        records = make_records(count) if records is None else records
        event = e.Reserved(
            at=AT, order=order, count=count, serial_prefix=(prefix or self.prefix()).hex(), template="00" * 32,
            chunk=chunk, device=device, attempt=attempt,
        )  # fmt: skip
        return self.say(event, attachment=records)

    def abandon(self, intent: int) -> None:
        self.say(e.Abandoned(at=AT, intent=intent, reason="interrupted"))

    def issue_chunk(self, intent: int, devices: list[str]) -> int:
        """Issue a bulk intent and store its keys; return the number of the first certificate."""
        entries = [issued_entry(device, intent) for device in devices]
        packed, leaves = pack(entries)
        with self.ledger.transaction() as tx:
            first: int = tx.append_issued(intent, count=len(devices), entries=packed, leaf_hashes=leaves)
            slots = b"".join(slot_of(intent, place) for place in range(len(devices)))
            tx.vault.put(intent, SealedChunk(b"capsule-%d" % intent, SLOT, slots))
        self.said += [(first + place, entry) for place, entry in enumerate(entries)]
        return first

    def issue(self, intent: int, device: str, *, vault: bool = False) -> int:
        """Issue an intent of one."""
        event, certificate = e.Issued(at=AT, device=device, intent=intent), b"certificate of " + device.encode()
        with self.ledger.transaction() as tx:
            seq: int = tx.append(event, certificate)
            if vault:
                tx.vault.put(intent, SealedChunk(b"capsule-%d" % intent, SLOT, slot_of(intent, 0)))
        self.said.append((seq, e.encode_entry(event, certificate)))
        return seq

    def make(self, order: str, devices: list[str], *, chunk: int = 4) -> list[int]:
        """Order and make a pool; return the intents."""
        self.order(order, devices, chunk=chunk)
        intents = []
        for number, at in enumerate(range(0, len(devices), chunk)):
            part = devices[at : at + chunk]
            intents.append(self.reserve(order, chunk=number, count=len(part)))
            self.issue_chunk(intents[-1], part)
        return intents

    def draw(self, device: str, attempt: str) -> int:
        return self.say(e.Drawn(at=AT, device=device, station="line-1", attempt=attempt))

    def install(self, device: str, attempt: str) -> int:
        return self.say(
            e.Installed(
                at=AT, device=device, station="line-1", attempt=attempt, target="files:x", cert_sha256="00" * 32
            )
        )

    def verify(self, device: str, attempt: str, intent: int, position: int) -> None:
        """Verify a device and erase its key."""
        said = [
            (
                e.Verified(
                    at=AT, device=device, station="line-1", attempt=attempt, evidence="digest", receipt_sha256="00" * 32
                ),
                b"receipt",
            ),
            (e.KeyErased(at=AT, device=device, intent=intent, reason="installed"), b""),
        ]
        with self.ledger.transaction() as tx:
            numbers = [tx.append(event, attachment) for event, attachment in said]
            tx.vault.erase(intent, position)
        self.said += [(n, e.encode_entry(*item)) for n, item in zip(numbers, said, strict=True)]

    def fail(self, device: str, attempt: str) -> int:
        return self.say(e.Failed(at=AT, device=device, station="line-1", attempt=attempt, code="target.readback"))

    def supersede(self, device: str) -> int:
        return self.say(e.Superseded(at=AT, device=device, reason="broken", by="tester"))

    def scrap(self, device: str) -> int:
        return self.say(e.Scrapped(at=AT, device=device, reason="crushed", by="tester"))


def slot_of(intent: int, place: int) -> bytes:
    """Return what the vault holds for one key."""
    return hashlib.shake_128(b"slot %d %d" % (intent, place)).digest(SLOT)


def issued_entry(device: str, intent: int) -> bytes:
    return e.encode_entry(e.Issued(at=AT, device=device, intent=intent), b"certificate of " + device.encode())


def pack(entries: list[bytes]) -> tuple[bytes, bytes]:
    """Return entries and leaf hashes as ``append_issued`` takes them."""
    packed = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    return packed, b"".join(hashlib.sha256(b"\0" + entry).digest() for entry in entries)
