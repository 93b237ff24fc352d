"""What a registry has to know, read out of the log from a cursor on.

A device is told as ``verified`` only while that identity is the one it has: what ended before it was read is not told
as made. An end is told whether or not the making was; who does not know the device passes over it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import Refused, Tampered
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.model.records import DeviceRecord
from birthmark.ports import Ledger, LogStore, Records, SiteRecords
from birthmark.tlog.merkle import EMPTY_ROOT, Frontier
from birthmark.tlog.tiles import HashReader
from birthmark.wire.registry import ChangeKind, ChangeLine, LogCursor

__all__ = ["CertificateOf", "ChangeFeed", "FeedRecords", "cursor_at", "foreign_source"]

_STEP = 4096
_MARK = re.compile(rb'"type":"(?:verified|revoked|superseded|scrapped|site_settled)"')
_TOLD_STATES = frozenset(map(str, (DeviceState.VERIFIED, DeviceState.FAILED, DeviceState.SCRAPPED)))
CERT_SERIAL_OCTETS = 16
CertificateOf = Callable[[DeviceRecord], bytes]
"""The certificate (DER) of a device's identity, wherever its log is."""


class FeedRecords(Records, SiteRecords, Protocol):
    """Records of devices and of sites: what one ledger offers."""


def cursor_at(size: int, *, published: int, store: LogStore) -> LogCursor:
    """Return the cursor behind ``size`` entries of the published log."""
    if size == 0:
        return LogCursor(0, EMPTY_ROOT.hex())
    return LogCursor(size, Frontier.load(size, HashReader(published, store.read)).root().hex())


@dataclass(frozen=True, slots=True)
class ChangeFeed:
    """The changes of one log up to its published head. Memory does not grow with the log."""

    ledger: Ledger
    records: FeedRecords
    store: LogStore
    certificate_of: CertificateOf

    def head(self) -> LogCursor:
        """Return the cursor behind all that is published."""
        size = self.ledger.head().published
        return cursor_at(size, published=size, store=self.store)

    def require(self, cursor: LogCursor) -> None:
        """Return if ``cursor`` is a place in this log.

        ``Tampered``: ``cursor.rolled_back`` (the log is shorter than it was), ``cursor.forked`` (it is another log).
        """
        published = self.ledger.head().published
        if cursor.size > published:
            raise Tampered(
                "cursor.rolled_back",
                f"the cursor knows {cursor.size} entries, the log shows only {published}",
                hint="This ledger is an old copy, or the cursor belongs to another log: find out before you go on.",
                cursor=cursor.size,
                published=published,
            )
        if cursor_at(cursor.size, published=published, store=self.store).root != cursor.root:
            raise Tampered(
                "cursor.forked",
                f"the first {cursor.size} entries of this log are not those that the cursor knows",
                hint="The cursor belongs to another log, or the log was rewritten: compare it with a witness's copy.",
                cursor=cursor.size,
            )

    def changes(
        self, first: int, size: int, *, progress: Callable[[int], None] = lambda count: None
    ) -> Iterator[ChangeLine]:
        """Yield the changes that entries ``first`` to ``size - 1`` made, in the order of the log."""
        for start in range(first, size, _STEP):
            count = min(_STEP, size - start)
            for seq, entry in self.ledger.entries(start, count):
                head = entry.partition(b"\n")[0]
                if _MARK.search(head):  # most entries are of no concern: do not take them apart
                    yield from self._of(seq, *e.decode_entry(entry))
            progress(count)

    def touched(self, first: int, size: int) -> Iterator[tuple[int, list[str]]]:
        """Yield (entry, devices) for entries ``first`` to ``size - 1`` that make or end identities.

        Cheaper than ``changes`` by far: no certificate is read, and no table is asked.
        """
        for start in range(first, size, _STEP):
            for seq, entry in self.ledger.entries(start, min(_STEP, size - start)):
                head = entry.partition(b"\n")[0]
                if _MARK.search(head):
                    yield seq, _devices_of(*e.decode_entry(entry))

    def _of(self, seq: int, event: e.Event, attachment: bytes) -> Iterator[ChangeLine]:
        match event:
            case e.Verified():
                device = self.records.device(event.device)
                if device is not None and device.state is DeviceState.VERIFIED and device.attempt == event.attempt:
                    yield self._made(seq, event.at, device, None)
            case e.Revoked():
                yield self._ended(seq, event.at, "revoked", event.device, event.cert_serial, event.reason)
            case e.Superseded():
                yield self._ended(seq, event.at, "superseded", event.device, event.cert_serial, event.reason)
            case e.Scrapped():
                yield self._ended(seq, event.at, "scrapped", event.device, None, event.reason)
            case e.SiteSettled():
                yield from self._settled(seq, event, attachment)
            case _:
                return

    def _settled(self, seq: int, event: e.SiteSettled, attachment: bytes) -> Iterator[ChangeLine]:
        for text in attachment.decode("ascii", "replace").split("\n") if attachment else ():
            serial, state, number = text.split(" ")[:3]
            if state == DeviceState.VERIFIED:
                device, settled = self.records.device(serial), self.records.settled(serial)
                current = settled is not None and (settled.site, settled.site_seq) == (event.site, int(number))
                if device is not None and device.state is DeviceState.VERIFIED and current:
                    yield self._made(seq, event.at, device, event.site)
            elif state in (DeviceState.FAILED, DeviceState.SCRAPPED):
                kind: ChangeKind = "scrapped" if state == DeviceState.SCRAPPED else "superseded"
                yield self._ended(seq, event.at, kind, serial, None, None, event.site)

    def _made(self, seq: int, at: str, device: DeviceRecord, site: str | None) -> ChangeLine:
        der = self.certificate_of(device)
        try:
            certificate = x509.load_der_x509_certificate(der)
            cert_serial = certificate.serial_number.to_bytes(CERT_SERIAL_OCTETS + 4, "big").lstrip(b"\0")
            pem = certificate.public_bytes(Encoding.PEM).decode()
        except (ValueError, OverflowError):
            raise Tampered(
                "credential.malformed",
                "a certificate on record cannot be read",
                hint="Stop the line and run `birthmark audit verify`.",
                device_serial=device.device_serial,
            ) from None
        return ChangeLine(
            change="verified",
            entry=seq,
            at=at,
            device_serial=device.device_serial,
            order=device.order,
            cert_serial=cert_serial.hex(),
            cert_sha256=sha256(der).hexdigest(),
            certificate=pem,
            site=site,
        )

    def _ended(
        self,
        seq: int,
        at: str,
        kind: ChangeKind,
        serial: str,
        cert_serial: str | None,
        reason: str | None,
        site: str | None = None,
    ) -> ChangeLine:
        return ChangeLine(
            change=kind,
            entry=seq,
            at=at,
            device_serial=serial,
            cert_serial=cert_serial,
            reason=reason,
            site=site,
        )


def _devices_of(event: e.Event, attachment: bytes) -> list[str]:
    match event:
        case e.Verified() | e.Revoked() | e.Superseded() | e.Scrapped():
            return [event.device]
        case e.SiteSettled():
            lines = [line.split(" ") for line in attachment.decode("ascii", "replace").split("\n")]
            return [line[0] for line in lines if len(line) > 1 and line[1] in _TOLD_STATES]
        case _:
            return []


def foreign_source(device_serial: str, site: str) -> Refused:
    """Return the error for a certificate that no log at hand holds."""
    return Refused(
        "export.certificate.missing",
        f"the certificate of {device_serial} is in the log of site {site}, which is not here",
        hint="Ingest the site's reports again; the kept log stands below sites/.",
        device_serial=device_serial,
        site=site,
    )
