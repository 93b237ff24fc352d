"""Credentials for many requests in few commits: one fsync serves all that arrived while the last one ran.

A round is one transaction. It stores what was signed since the round before (``tx2``), reserves or draws for the new
requests (``tx1``) and records refusals; each in a part of its own, so that one refusal takes nothing else with it.
Then what is reserved is signed, for the next round to store. Nothing is answered before the commit that holds it.

Power cut before the commit of a round: nothing of it happened, and nobody was answered. Between the round that
reserves and the one that stores: the reservation stands, and the same attempt gets exactly the reserved TBS signed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from birthmark.errors import BirthmarkError, Refused, Tampered, Unavailable
from birthmark.model.events import Rejected, utc_text
from birthmark.model.records import AttemptRecord, DeviceRecord, OrderRecord
from birthmark.pki.csr import Csr, plain_csr
from birthmark.ports import Clock, Credential, CredentialRequest, Ledger, Records, SiteRecords, Transaction
from birthmark.workflow.handout import check_ids, known_device, stored_certificate, unknown_device
from birthmark.workflow.line.draw import Draw, Drawing, Sealed
from birthmark.workflow.line.issuing import Issuing, Reservation, Wish

__all__ = ["MOST_REFUSALS", "Answer", "Asked", "IssueBatch"]

MOST_REFUSALS = 200
"""So many refusals of one station are put on record within a minute."""
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One request of a station of ``site``; ``access``: SHA-256 (hex) of the key that the station showed."""

    request: CredentialRequest
    site: str
    access: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request, now durable: a credential and its order, or an error."""

    asked: Asked
    credential: Credential | None = None
    order: OrderRecord | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Signed:
    """Reserved, durable and signed; not stored yet."""

    asked: Asked
    wish: Wish
    intent: int
    certificate: bytes


@dataclass(slots=True)
class _Round:
    """What one round has to do, and what came of it."""

    signed: list[_Signed]
    wishes: list[tuple[Asked, Wish]] = field(default_factory=list)
    draws: list[tuple[Asked, Draw]] = field(default_factory=list)
    refused: list[tuple[Asked, Refused]] = field(default_factory=list)
    reserved: list[tuple[Asked, Reservation]] = field(default_factory=list)
    resumed: list[tuple[Asked, Wish]] = field(default_factory=list)
    drawn: list[tuple[Asked, Draw, Sealed]] = field(default_factory=list)
    stored: list[tuple[_Signed, int | None]] = field(default_factory=list)
    working: dict[str, str | None] = field(default_factory=dict)
    """Site → why it is stopped, as of this round."""
    let_in: dict[str, bool] = field(default_factory=dict)
    """Key of a caller → whether it is let in, as of this round."""
    answers: list[Answer] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        return bool(self.signed or self.wishes or self.draws or self.refused)


class IssueBatch:
    """Works through requests in rounds; call it from one thread.

    ``run`` takes new requests and returns the answers that are durable. While ``is_busy``, call it again, if need be
    with no requests. Only orders assigned to the asking site, in mode ``online``, are served.
    """

    def __init__(
        self, *, ledger: Ledger, records: Records, sites: SiteRecords, issuing: Issuing, drawing: Drawing, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._sites = sites
        self._issuing = issuing
        self._drawing = drawing
        self._clock = clock
        self._signed: list[_Signed] = []
        self._later: list[Asked] = []
        self._open: dict[Asked, None] = {}
        self._attempts: set[str] = set()
        self._retried: set[Asked] = set()
        self._assigned: dict[str, str] = {}
        self._refusals: dict[str, deque[datetime]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a request waits for another round."""
        return bool(self._open)

    def run(self, requests: Sequence[Asked]) -> list[Answer]:
        """Do one round. What it raises (``StationFault``, ``Unavailable``) concerns everybody whom ``lost`` names."""
        asked, self._later = [*self._later, *requests], []
        self._open.update(dict.fromkeys(requests))
        work = _Round(self._signed)
        fresh: list[Asked] = []
        for one in asked:
            if one.request.attempt in self._attempts:
                # Its attempt is under way: it takes part in what comes of that.
                self._later.append(one)
            else:
                self._attempts.add(one.request.attempt)
                fresh.append(one)
        self._examine_all(fresh, work)
        if work.writes:
            self._commit(work)
        self._signed = []
        self._finish(work)
        self._sign(work)
        for answer in work.answers:
            del self._open[answer.asked]
            self._retried.discard(answer.asked)
            self._attempts.discard(answer.asked.request.attempt)
        return work.answers

    def lost(self) -> list[Asked]:
        """Return and forget all requests that are not answered."""
        left = list(self._open)
        self._signed, self._later, self._open = [], [], {}
        self._attempts, self._retried = set(), set()
        return left

    def _examine_all(self, asked: Sequence[Asked], work: _Round) -> None:
        """Sort requests by what is to be done for them; what is on record of all is read at once."""
        named = []
        for one in asked:
            try:
                check_ids(one.request)
            except Refused as refusal:
                work.answers.append(Answer(one, error=refusal))
            else:
                named.append(one)
        if not named:
            return
        devices = self._records.devices([one.request.device_serial for one in named])
        attempts = self._records.attempts([one.request.attempt for one in named])
        # Read in a row, before anything else is done with them: the code and tables of one verification serve the next.
        csrs = [None if one.request.csr is None else plain_csr(one.request.csr) for one in named]
        for one, csr in zip(named, csrs, strict=True):
            request = one.request
            self._examine(one, csr, devices.get(request.device_serial), attempts.get(request.attempt), work)

    def _examine(
        self, one: Asked, csr: Csr | None, device: DeviceRecord | None, attempt: AttemptRecord | None, work: _Round
    ) -> None:
        request = one.request
        if (ended := self._too_many_refusals(request.station)) is not None:
            work.answers.append(Answer(one, error=ended))
            return
        try:
            self._require_access(one, work)
            if device is None:
                raise unknown_device(request.device_serial)
            self._require_site(one, device, work)
            if request.csr is None:
                work.draws.append((one, self._drawing.examine(request, device)))
                return
            wish = self._issuing.examine(request, device, attempt, csr)
        except Refused as refusal:
            self._refusals.setdefault(request.station, deque(maxlen=MOST_REFUSALS)).append(self._clock())
            work.refused.append((one, refusal))
        except Exception as problem:  # noqa: BLE001  it is told to the one who asked, and to nobody else
            work.answers.append(Answer(one, error=problem))
        else:
            (work.wishes if wish.intent is None else work.resumed).append((one, wish))

    def _too_many_refusals(self, station: str) -> Unavailable | None:
        """Every refusal becomes an entry of the log for ever: whoever is let in does not get to fill it."""
        recent = self._refusals.get(station)
        if recent is None or len(recent) < MOST_REFUSALS or self._clock() - recent[0] > _MINUTE:
            return None
        return Unavailable(
            "service.refusals",
            f"{station} was refused {MOST_REFUSALS} times within a minute",
            hint="Look at what the station asks for. This request was not looked at; send it again in a minute.",
            station=station,
        )

    def _require_access(self, one: Asked, work: _Round) -> None:
        """A withdrawal counts from the next round on, whatever a kept connection was told before."""
        if one.access not in work.let_in:
            record = self._sites.access(one.access)
            work.let_in[one.access] = record is not None and record.withdrawn is None
        if not work.let_in[one.access]:
            raise Refused(
                "service.access.ended",
                f"the access of {one.request.station} has ended",
                hint="Ask the authority for a new certificate with a new key.",
                station=one.request.station,
            )

    def _require_site(self, one: Asked, device: DeviceRecord, work: _Round) -> None:
        if device.order not in self._assigned:
            assignment = self._sites.assignment(device.order)
            if assignment is not None and assignment.mode == "online":
                # An assignment never changes.
                self._assigned[device.order] = assignment.site
        if self._assigned.get(device.order) != one.site:
            raise Refused(
                "service.other_site",
                f"device {device.device_serial} is not made at site {one.site}",
                hint="Scan a device of an order that is assigned to your site; the authority assigns orders.",
                device_serial=device.device_serial,
                site=one.site,
            )
        if one.site not in work.working:
            record = self._sites.site(one.site)
            work.working[one.site] = "it is not known" if record is None else record.stopped
        if (reason := work.working[one.site]) is not None:
            raise Refused(
                "service.site_stopped",
                f"site {one.site} is stopped: {reason}",
                hint="Ask the authority to look at the findings; it alone can let the site work again.",
                site=one.site,
            )

    def _commit(self, work: _Round) -> None:
        """Write one round. Refusals are rare: the round is written as one, and in parts only if that is refused."""
        at = utc_text(self._clock())
        refused = False
        try:
            with self._ledger.transaction() as tx:
                try:
                    self._write_together(tx, work, at)
                except (Refused, Tampered):
                    refused = True
                    raise
                self._write_others(tx, work, at)
        except (Refused, Tampered):
            if not refused:
                raise
            with self._ledger.transaction() as tx:
                work.stored = [(one, self._store_alone(tx, one, at)) for one in work.signed]
                self._reserve_alone(tx, work, at)
                self._write_others(tx, work, at)

    def _write_others(self, tx: Transaction, work: _Round, at: str) -> None:
        """Draw, each in a part of its own, and put refusals on record."""
        for one, draw in work.draws:
            try:
                with tx.part():
                    work.drawn.append((one, draw, self._drawing.draw(tx, draw, at)))
            except (Refused, Tampered) as problem:
                self._again(one, problem, work)
        for one, refusal in work.refused:
            tx.append(_rejected(one, refusal, at))

    def _write_together(self, tx: Transaction, work: _Round, at: str) -> None:
        if work.signed:
            signed = [(one.wish, one.intent, one.certificate) for one in work.signed]
            first = self._issuing.store_together(tx, signed, at)
            work.stored = [(one, first + place) for place, one in enumerate(work.signed)]
        if work.wishes:
            reserved = self._issuing.reserve_together(tx, [wish for _, wish in work.wishes], at)
            work.reserved = [(one, each) for (one, _), each in zip(work.wishes, reserved, strict=True)]

    def _reserve_alone(self, tx: Transaction, work: _Round, at: str) -> None:
        work.reserved = []
        for one, wish in work.wishes:
            try:
                with tx.part():
                    work.reserved.append((one, self._issuing.reserve(tx, wish, at)))
            except (Refused, Tampered) as problem:
                self._again(one, problem, work)

    def _again(self, one: Asked, problem: Refused | Tampered, work: _Round) -> None:
        """Look again in the next round: if somebody was faster, that tells who; if not, it is refused for good."""
        if isinstance(problem, Tampered):
            work.answers.append(Answer(one, error=problem))
        elif one in self._retried:
            work.refused.append((one, problem))
        else:
            self._retried.add(one)
            self._attempts.discard(one.request.attempt)
            self._later.append(one)

    def _store(self, tx: Transaction, signed: _Signed, at: str) -> int:
        return self._issuing.store(tx, signed.wish, signed.intent, signed.certificate, at)

    def _store_alone(self, tx: Transaction, signed: _Signed, at: str) -> int | None:
        """Return the number of the entry; None if another process finished the same attempt before."""
        try:
            with tx.part():
                return self._store(tx, signed, at)
        except Refused:
            return None

    def _finish(self, work: _Round) -> None:
        """Answer what is durable now."""
        for one, refusal in work.refused:
            work.answers.append(Answer(one, error=refusal))
        for one, draw, sealed in work.drawn:
            try:
                credential = self._drawing.open(draw.request, sealed)
                work.answers.append(Answer(one, credential, self._records.order(draw.device.order)))
            except Exception as problem:  # noqa: BLE001  it is told to the one who asked, and to nobody else
                work.answers.append(Answer(one, error=problem))
        for signed, seq in work.stored:
            if seq is None:
                work.answers.append(self._on_record(signed.asked, signed.wish, signed.intent))
            else:
                work.answers.append(self._answer(signed.asked, signed.wish, signed.intent, signed.certificate, seq))

    def _on_record(self, one: Asked, wish: Wish, intent: int) -> Answer:
        """Answer with the certificate that is stored for an intent, by whomever."""
        device = known_device(self._records, wish.request.device_serial)
        if device.intent != intent or device.issued_seq is None:
            problem = Refused(
                "attempt.superseded",
                f"the reservation of {device.device_serial} was given up while it was being signed",
                hint="Start a new attempt.",
                device_serial=device.device_serial,
            )
            return Answer(one, error=problem)
        return self._answer(one, wish, intent, stored_certificate(self._ledger, device), device.issued_seq)

    def _answer(self, one: Asked, wish: Wish, intent: int, certificate: bytes, seq: int) -> Answer:
        chain = self._issuing.chain(wish.order)
        credential = Credential(wish.request.device_serial, certificate, chain, None, intent, seq)
        return Answer(one, credential, wish.order)

    def _sign(self, work: _Round) -> None:
        """Sign what is reserved and durable; answer at once what is stored already."""
        by_permit: dict[int, list[tuple[Asked, Reservation]]] = {}
        for one, reservation in work.reserved:
            by_permit.setdefault(id(reservation.permit), []).append((one, reservation))
        for group in by_permit.values():
            try:
                certificates = self._issuing.sign_many([reservation for _, reservation in group])
            except BirthmarkError as problem:
                work.answers += [Answer(one, error=problem) for one, _ in group]
                continue
            self._signed += [
                _Signed(one, reservation.wish, reservation.intent.intent, certificate)
                for (one, reservation), certificate in zip(group, certificates, strict=True)
            ]
        for one, wish in work.resumed:
            self._resume(one, wish, work)

    def _resume(self, one: Asked, wish: Wish, work: _Round) -> None:
        if wish.intent is None:
            raise ValueError("only a wish with a reservation is resumed")
        try:
            if wish.intent.state == "issued":
                work.answers.append(self._on_record(one, wish, wish.intent.intent))
            else:
                certificate = self._issuing.sign(wish, wish.intent)
                self._signed.append(_Signed(one, wish, wish.intent.intent, certificate))
        except BirthmarkError as problem:
            work.answers.append(Answer(one, error=problem))


def _rejected(one: Asked, refusal: Refused, at: str) -> Rejected:
    request = one.request
    return Rejected(
        at=at,
        station=request.station,
        code=refusal.code,
        device=request.device_serial,
        attempt=request.attempt,
    )
