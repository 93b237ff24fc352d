"""Settle a site's log: check every new entry, and make of it what happened to the authority's own devices.

The cursor is ``site.settled``: entries before it are done with. A batch of entries is checked, then one transaction
holds its findings and its ``site_settled`` events. Power cut: the batches that were committed stand, the rest is read
again from the mirror; contradictions on record are not raised again. The replica is kept after the events that came of
it are durable: it is behind the cursor then, and catches up without judging anything twice.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from birthmark.errors import Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import (
    Admitted,
    Drawn,
    Event,
    Failed,
    Installed,
    Issued,
    Received,
    Requested,
    Reserved,
    Revoked,
    Scrapped,
    Superseded,
    Verified,
    decode_entry,
)
from birthmark.model.records import IntentRecord
from birthmark.ports import Ledger, SiteReplica
from birthmark.workflow.handout import record_of
from birthmark.workflow.homecoming.settlelines import SettleLine, SettleWriter
from birthmark.workflow.homecoming.siteauthority import OwnRecord
from birthmark.workflow.homecoming.sitefindings import AuthorityRecords, Contradiction, FindingBook
from birthmark.workflow.homecoming.sitemirror import SiteMirror
from birthmark.workflow.homecoming.siteproofs import CertificateCase, CheckMap, ReceiptCase, check_proofs
from birthmark.workflow.homecoming.siterevocations import SiteRevocations
from birthmark.workflow.homecoming.siterules import AUTHORITY_ONLY, SiteRules
from birthmark.workflow.homecoming.sitetemplates import SiteTemplates

__all__ = ["Settlement"]

_BATCH = 2048
"""Entries judged together."""
_RUN = 512
"""Certificates of a chunk at the most: a batch does not end between them."""
_DEPTH = 2
"""Batches whose signatures are being checked while the next one is read."""
_KEEP_AFTER = 32
"""Batches after which the replica is kept."""
_JOBS = 128
"""Signatures that are handed to another process together."""
_KEPT_CERTIFICATES = 8192

_CHANGES = frozenset({Reserved, Requested, Issued, Received, Drawn, Installed, Verified, Failed, Superseded, Scrapped})
"""Events that bring the device they name into another state."""

_WITH_AUTHORITY = frozenset({DeviceState.RESERVED, DeviceState.ISSUED, DeviceState.POOLED})
"""Of these the authority's own record is the better one, where it issues."""

_Entry = tuple[Event, bytes] | None
_Place = tuple[str, DeviceState]
"""Order and state of a device at its site."""
_Case = ReceiptCase | CertificateCase


@dataclass(slots=True)
class _Batch:
    """Entries before ``upto``, judged; ``cases`` are being checked, ``results`` will say how that went."""

    upto: int
    found: list[Contradiction] = field(default_factory=list)
    early: list[SettleLine] = field(default_factory=list)
    """Devices that got one more identity later in this batch: their first key must not be forgotten."""
    lines: list[SettleLine] = field(default_factory=list)
    revoked: list[Revoked] = field(default_factory=list)
    cases: list[tuple[int, str, _Case]] = field(default_factory=list)
    results: Iterable[list[str | None]] = ()


class Settlement:
    """One walk over what is new in a site's log. The caller holds the site's lock."""

    def __init__(
        self,
        own: OwnRecord,
        *,
        ledger: Ledger,
        records: AuthorityRecords,
        mirror: SiteMirror,
        replica: SiteReplica,
        templates: SiteTemplates,
        book: FindingBook,
        writer: SettleWriter,
        revocations: SiteRevocations,
        check_map: CheckMap,
    ) -> None:
        self._own = own
        self._site = own.site
        self._ledger = ledger
        self._records = records
        self._mirror = mirror
        self._replica = replica
        self._templates = templates
        self._book = book
        self._writer = writer
        self._revocations = revocations
        self._map = check_map
        self._rules = SiteRules(own, records, replica, templates)
        self._certificates: OrderedDict[str, bytes] = OrderedDict()
        self._last_intent: IntentRecord | None = None

    def run(self, progress: Callable[[int], None] = lambda count: None) -> int:
        """Settle everything that is verified; return how many devices were settled (one may count twice)."""
        end, at = self._site.reported, self._site.settled
        self._catch_up(at)
        pending: deque[_Batch] = deque()
        for number, (first, entries) in enumerate(self._batches(at, end), 1):
            pending.append(self._judge(first, entries))
            while len(pending) > (0 if number % _KEEP_AFTER == 0 else _DEPTH):
                self._commit(pending.popleft(), end)
            if not pending:
                self._replica.keep()
            progress(len(entries))
        while pending:
            self._commit(pending.popleft(), end)
        self._replica.keep()
        return self._writer.settled

    def _catch_up(self, until: int) -> None:
        """Bring the replica to the cursor; what was unlawful there is on record already."""
        if self._replica.size > until:
            self._replica.start_over()
        for first, entries in self._batches(self._replica.size, until):
            self._replica.take(first, _of_a_site(entries))
        self._replica.keep()

    def _batches(self, first: int, end: int) -> Iterator[tuple[int, list[_Entry]]]:
        """Yield the number of the first entry and the entries; certificates of one intent stay together."""
        held: list[_Entry] = []
        run = 0
        for _, entry in self._mirror.entries(first, end):
            decoded = _decoded(entry)
            if len(held) >= _BATCH:
                run += 1
                if run > _RUN or not _same_intent(held[-1], decoded):
                    yield first, held
                    first, held, run = first + len(held), [], 0
            held.append(decoded)
        if held:
            yield first, held

    def _judge(self, first: int, entries: list[_Entry]) -> _Batch:
        batch = _Batch(first + len(entries))
        earlier = self._certificates_before(entries)
        lawful = _of_a_site(entries)
        refused = self._replica.take(first, lawful)
        self._last_intent = None
        keys: dict[str, tuple[int, bytes]] = {}
        changed = _changed(first, lawful, refused)
        places = self._replica.places(changed)
        for number, entry in enumerate(lawful, first):
            if entry is None or number in refused:
                what = refused[number].message if number in refused else "it is no event of a site"
                batch.found.append(Contradiction("site.entry.unlawful", what, entry=number))
                continue
            event, attachment = entry
            if found := self._rules.judge(event, attachment):
                batch.found += [_at(number, item) for item in found]
            if isinstance(event, Verified | Admitted):
                batch.cases.append((number, event.device, self._receipt_case(event, attachment, earlier, places)))
            elif isinstance(event, Issued | Received):
                self._remember(event.device, attachment)
                self._take_certificate(batch, keys, number, event, attachment)
            elif isinstance(event, Revoked):
                fault = self._revocations.judge(event, self._certificate_of(event.device, earlier))
                if fault is None:
                    batch.revoked.append(event)
                else:
                    batch.found.append(_at(number, fault))
        batch.lines = self._lines(changed, keys, places)
        jobs = [case for _, _, case in batch.cases]
        batch.results = self._map(check_proofs, [jobs[at : at + _JOBS] for at in range(0, len(jobs), _JOBS)])
        return batch

    def _take_certificate(
        self,
        batch: _Batch,
        keys: dict[str, tuple[int, bytes]],
        number: int,
        event: Issued | Received,
        certificate: bytes,
    ) -> None:
        """Take the certificate of a site's own CA up for checking, and its key for the record."""
        intent = self._intent(event.intent) if isinstance(event, Issued) else None
        if intent is None or self._own.assigned_mode(intent.order) != "factory_ca":
            return
        position = 0 if intent.issued_seq is None or intent.chunk is None else number - intent.issued_seq
        case = self._templates.case(certificate, event.device, intent, position)
        if case is not None:
            batch.cases.append((number, event.device, case))
        if event.device in keys:
            entry, key = keys[event.device]
            batch.early.append(SettleLine(event.device, intent.order, DeviceState.FAILED, entry, key))
        keys[event.device] = (number, record_of(intent, position)[1])

    def _intent(self, number: int) -> IntentRecord | None:
        """Return an intent whose certificates are being walked over; a chunk of them asks for the same one."""
        if self._last_intent is None or self._last_intent.intent != number:
            self._last_intent = self._replica.records.intent(number)
        return self._last_intent

    def _certificates_before(self, entries: Sequence[_Entry]) -> dict[str, bytes]:
        """Return the certificates that devices which are verified or revoked in a batch had before it."""
        wanted = {
            entry[0].device
            for entry in entries
            if entry is not None
            and isinstance(entry[0], Verified | Admitted | Revoked)
            and entry[0].device not in self._certificates
        }
        numbers = self._replica.certificate_entries(wanted) if wanted else {}
        known = sorted((number, device) for device, number in numbers.items() if number < self._mirror.size)
        return {device: self._mirror.entry(number).partition(b"\n")[2] for number, device in known}

    def _remember(self, device_serial: str, certificate: bytes) -> None:
        self._certificates[device_serial] = certificate
        if len(self._certificates) > _KEPT_CERTIFICATES:
            self._certificates.popitem(last=False)

    def _certificate_of(self, device_serial: str, earlier: Mapping[str, bytes]) -> bytes | None:
        return self._certificates.get(device_serial) or earlier.get(device_serial)

    def _receipt_case(
        self, event: Verified | Admitted, receipt: bytes, earlier: Mapping[str, bytes], places: Mapping[str, _Place]
    ) -> ReceiptCase:
        place = places.get(event.device)
        order = None if place is None else self._own.order(place[0])
        return ReceiptCase(
            receipt=receipt,
            receipt_sha256=event.receipt_sha256,
            origin=self._site.origin,
            station=event.station,
            attempt=event.attempt,
            device=event.device,
            evidence=event.evidence,
            key_origin=None if order is None else order.key_origin,
            vkey=self._own.station_vkey(event.station),
            certificate=self._certificate_of(event.device, earlier),
            service=event.service if isinstance(event, Admitted) else None,
        )

    def _lines(
        self, changed: Mapping[str, int], keys: Mapping[str, tuple[int, bytes]], places: Mapping[str, _Place]
    ) -> list[SettleLine]:
        lines = []
        for serial, number in changed.items():
            if serial not in places:
                continue
            order, state = places[serial]
            settled = _settled_state(self._own.assigned_mode(order), state)
            if settled is not None:
                key = keys[serial][1] if serial in keys else None
                lines.append(SettleLine(serial, order, settled, number, key))
        return lines

    def _commit(self, batch: _Batch, end: int) -> None:
        """Put a batch on record, in one transaction."""
        problems = list(self._problems(batch))
        batch.found += [_proof_fault(*problem) for problem in problems]
        early, lines = self._good_lines(batch, {serial for _, serial, case, _ in problems if _is_receipt(case)})
        fresh = self._book.note(batch.found)
        revoked = self._revocations.fresh(batch.revoked, self._book.devices)
        last = self._records.assignments(self._site.site)[:1] if batch.upto == end else ()
        if not (fresh or early or lines or revoked or last):
            return
        with self._ledger.transaction() as tx:
            self._book.append(tx, fresh)
            events = self._writer.events
            found = [item for line in early for item in self._writer.append(tx, [line], batch.upto)]
            found += self._writer.append(tx, lines, batch.upto)
            self._book.append(tx, self._book.note(found))
            self._revocations.append(tx, revoked)
            if last and events == self._writer.events:
                self._writer.close(tx, last[0].order, batch.upto)

    def _good_lines(self, batch: _Batch, unproven: set[str]) -> tuple[list[SettleLine], list[SettleLine]]:
        """Return what no finding speaks against; devices whose receipt does not hold are ``unproven``."""
        named = {item.device for item in batch.found if item.code != "site.receipt"}

        def good(lines: list[SettleLine]) -> list[SettleLine]:
            return [
                line.without_receipt() if line.device in unproven else line
                for line in lines
                if line.device not in named and line.device not in self._book.devices
            ]

        return good(batch.early), good(batch.lines)

    def _problems(self, batch: _Batch) -> Iterator[tuple[int, str, _Case, str]]:
        outcomes = [outcome for part in batch.results for outcome in part]
        for (number, serial, case), problem in zip(batch.cases, outcomes, strict=True):
            if problem is not None:
                yield number, serial, case, problem


def _proof_fault(number: int, serial: str, case: _Case, problem: str) -> Contradiction:
    if isinstance(case, ReceiptCase):
        return Contradiction("site.receipt", problem, number, serial, case.station, case.receipt)
    return Contradiction("site.certificate", problem, number, serial, None, case.certificate)


def _settled_state(mode: str | None, state: DeviceState) -> DeviceState | None:
    """Return what the authority makes of a state at the site, None if nothing.

    Where the authority issues, nothing that a site says makes a device open or pooled there again: it would get a
    second identity, or its key a second owner. A device that its site opened again has failed here, until the authority
    reworks it.
    """
    if mode is None or (mode != "factory_ca" and state in _WITH_AUTHORITY):
        return None
    if mode != "factory_ca" and state is DeviceState.ORDERED:
        return DeviceState.FAILED
    return state


def _is_receipt(case: _Case) -> bool:
    return isinstance(case, ReceiptCase)


def _of_a_site(entries: list[_Entry]) -> list[_Entry]:
    """Return the entries with None for those that no site may write."""
    return [None if entry is not None and type(entry[0]) in AUTHORITY_ONLY else entry for entry in entries]


def _changed(first: int, entries: Sequence[_Entry], refused: Mapping[int, object]) -> dict[str, int]:
    """Return the devices that lawful entries bring into another state, each with the number of the last one."""
    return {
        entry[0].device: number  # type: ignore[union-attr]
        for number, entry in enumerate(entries, first)
        if entry is not None and type(entry[0]) in _CHANGES and entry[0].device is not None and number not in refused  # type: ignore[union-attr]
    }


def _at(number: int, item: Contradiction) -> Contradiction:
    return Contradiction(item.code, item.what, number, item.device, item.station, item.evidence)


def _decoded(entry: bytes) -> _Entry:
    try:
        return decode_entry(entry)
    except Tampered:
        return None


def _same_intent(before: _Entry, after: _Entry) -> bool:
    intents = [
        entry[0].intent if entry and isinstance(entry[0], Issued | Received) else None for entry in (before, after)
    ]
    return intents[0] is not None and intents[0] == intents[1]
