"""A log and its tables in memory, as far as registration reads them, and a life for devices: verified, ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509

from birthmark.adapters.registerbook import SqliteRegisterBook
from birthmark.errors import Tampered
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.model.records import CaRecord, DeviceRecord, LogHead, OrderRecord
from birthmark.ports import Cloud, Registration
from birthmark.wire.registry import LogCursor
from birthmark.workflow.register.changes import ChangeFeed
from birthmark.workflow.register.fold import BookFold, Scope
from birthmark.workflow.register.pace import Pace
from birthmark.workflow.register.run import RunOfRegistrations
from birthmark.workflow.register.wanted import WantedNow
from support.clouds.fleet import Fleet

__all__ = ["AT", "LogWorld", "TestTime", "fleet"]

AT = "2026-11-26T02:00:00.000Z"
ORDER = OrderRecord("lot", "device", "tls-client", "p256", "device", "issuing", 100, 1)


@cache
def fleet() -> Fleet:
    """Return the one CA of these tests."""
    return Fleet()


@cache
def certificate(number: int) -> bytes:
    """Return a certificate; making one is slow, so that few are made."""
    return fleet().certificate(f"unit-{number}")


class TestTime:
    """A clock that stands still until somebody sleeps."""

    __test__ = False

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class _Feed(ChangeFeed):
    """The changes of a log whose head is known without tiles."""

    def head(self) -> LogCursor:
        return self.ledger.cursor(self.ledger.head().published)  # type: ignore[attr-defined, no-any-return]

    def require(self, cursor: LogCursor) -> None:
        if self.ledger.cursor(cursor.size) != cursor:  # type: ignore[attr-defined]
            raise Tampered("cursor.forked", "another log", hint="Find out.")


@dataclass
class LogWorld:
    """Implements what ``ChangeFeed`` needs of ``Ledger`` and of ``Records``. ``publish`` shows what was written."""

    log: list[bytes] = field(default_factory=list)
    rows: dict[str, DeviceRecord] = field(default_factory=dict)
    revoked: set[bytes] = field(default_factory=set)
    published: int = 0
    made: int = 0

    # What happens to devices.

    def say(self, event: Any, attachment: bytes = b"") -> int:
        self.log.append(e.encode_entry(event, attachment))
        return len(self.log) - 1

    def verify(self, serial: str) -> None:
        """Give a device a new identity and verify it."""
        self.made += 1
        seq = self.say(e.Issued(at=AT, device=serial, intent=1), certificate(self.made % 40))
        self.rows[serial] = DeviceRecord(serial, "lot", DeviceState.VERIFIED, 1, 0, seq, f"attempt-{seq}")
        self.say(
            e.Verified(
                at=AT, device=serial, station="s", attempt=f"attempt-{seq}", evidence="signature",
                receipt_sha256="00" * 32,
            )
        )  # fmt: skip

    def issue(self, serial: str) -> None:
        """Give a device a certificate that is not verified yet."""
        seq = self.say(e.Issued(at=AT, device=serial, intent=1), certificate(0))
        self.rows[serial] = DeviceRecord(serial, "lot", DeviceState.ISSUED, 1, 0, seq, None)

    def supersede(self, serial: str) -> None:
        self.say(e.Superseded(at=AT, device=serial, reason="r", by="t"))
        self.rows[serial] = DeviceRecord(serial, "lot", DeviceState.ORDERED, None, None, None, None)

    def scrap(self, serial: str) -> None:
        self.say(e.Scrapped(at=AT, device=serial, reason="r", by="t"))
        row = self.rows[serial]
        self.rows[serial] = DeviceRecord(serial, "lot", DeviceState.SCRAPPED, row.intent, 0, row.issued_seq, None)

    def revoke(self, serial: str) -> None:
        """Revoke the certificate that a device has; it stays verified."""
        number = x509.load_der_x509_certificate(self.certificate_of(self.rows[serial])).serial_number
        octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
        self.revoked.add(octets)
        self.say(e.Revoked(at=AT, device=serial, cert_serial=octets.hex(), reason="keyCompromise", by="t"))

    def publish(self) -> None:
        self.published = len(self.log)

    def certificate_of(self, device: DeviceRecord) -> bytes:
        assert device.issued_seq is not None
        return e.decode_entry(self.log[device.issued_seq])[1]

    # Ledger.

    def head(self) -> LogHead:
        return LogHead(len(self.log), self.published)

    def cursor(self, size: int) -> LogCursor:
        return LogCursor(size, sha256(b"".join(self.log[:size])).hexdigest())

    def entries(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        yield from enumerate(self.log[first : first + count], first)

    # Records.

    def devices(self, device_serials: Sequence[str]) -> dict[str, DeviceRecord]:
        return {serial: self.rows[serial] for serial in device_serials if serial in self.rows}

    def device(self, serial: str) -> DeviceRecord | None:
        return self.rows.get(serial)

    def order(self, order: str) -> OrderRecord | None:
        return ORDER if order == "lot" else None

    def orders(self) -> list[OrderRecord]:
        return [ORDER]

    def settled(self, serial: str) -> None:
        return None

    def is_revoked(self, cert_serial: bytes) -> bool:
        return cert_serial in self.revoked

    def cas(self) -> list[CaRecord]:
        issuing, root = fleet().chain()
        return [CaRecord("root", "root", None, root, 0), CaRecord("issuing", "issuing", "root", issuing, 1)]

    # What is put together from it.

    def feed(self) -> ChangeFeed:
        world: Any = self
        return _Feed(world, world, world, self.certificate_of)

    def truth(self, serial: str, told_seq: int | None = None) -> Registration:
        """Return what a cloud has to know of a device now."""
        wanted = WantedNow(self.feed()).of({serial: told_seq})[serial]
        return wanted.registration  # type: ignore[union-attr]

    def book(self, path: Path) -> SqliteRegisterBook:
        return SqliteRegisterBook(path, cloud="memory:cloud", scope=Scope().text())

    def run(self, cloud: Cloud, book: SqliteRegisterBook, time: TestTime, **parts: Any) -> RunOfRegistrations:
        pace = Pace(cloud.limits.calls_a_minute, time.clock, time.sleep, lambda count: bytes(count))
        parts.setdefault("note", lambda: None)
        return RunOfRegistrations(
            cloud=cloud, book=book, fold=BookFold(self.feed(), book, Scope()), pace=pace, **parts
        )  # fmt: skip
