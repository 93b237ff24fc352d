"""Make the identities of an order whose CA is a third party's service, chunk by chunk, safe to kill at any instant.

For each chunk: the engine makes and seals keys and builds the requests; requests and sealed keys are kept in the
request store and then ``requested`` is recorded, both durable before anything is sent; the requests are sent at the
service's pace; each answer is checked and kept; when all are there, one transaction records ``received`` for the whole
chunk and puts its keys into the vault.

A crash before ``requested`` leaves nothing that counts. After it the next run goes on with the same requests: what was
kept is not asked for again, what was not is, with the same idempotency key. Where the kept requests are lost the
intent is abandoned on record and the chunk made anew. Either way one certificate a device comes into the pool; a
service that does not know idempotency may have signed another one for the same key, which nobody holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from birthmark.errors import BirthmarkError, Tampered
from birthmark.model.events import Abandoned, Received, Requested, decode_entry, encode_entry, utc_text
from birthmark.model.records import ChunkRecord, IntentRecord, OrderRecord
from birthmark.pki.answer import AnswerRule
from birthmark.pki.csr import parse_csr
from birthmark.ports import (
    Clock,
    Engine,
    KeptRequests,
    Ledger,
    MadeRequests,
    MakeTask,
    Records,
    RequestStore,
    SigningQueue,
    SigningRequest,
)
from birthmark.workflow.authority.caimport import wanted_not_after
from birthmark.workflow.handout import record_of
from birthmark.workflow.orders.chunks import OpenChunks, require_injected

__all__ = ["Procurement", "idempotency_key", "matches_record"]

_KEY_DIGITS = 32


def idempotency_key(csr: bytes) -> str:
    """Return the name of a request towards a service: the same request, the same name, whoever sends it again."""
    return sha256(csr).hexdigest()[:_KEY_DIGITS]


def matches_record(kept: KeptRequests | None, intent: IntentRecord) -> bool:
    """Say whether what was kept is what ``intent`` has on record, request for request."""
    if kept is None or len(kept.requests) != intent.count:
        return False
    return all(sha256(csr).digest() == record_of(intent, place)[2] for place, csr in enumerate(kept.requests))


@dataclass(slots=True)
class _Work:
    """A chunk that is on record as requested. ``answers``: position → certificate (DER)."""

    intent: int
    device_serials: list[str]
    kept: KeptRequests
    answers: dict[int, bytes] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self.device_serials)


class Procurement:
    """One run over an order; call only while nobody else makes this order. ``source`` names the service on record."""

    def __init__(
        self,
        order: OrderRecord,
        *,
        source: str,
        rule: AnswerRule,
        ledger: Ledger,
        records: Records,
        engine: Engine,
        queue: SigningQueue,
        store: RequestStore,
        clock: Clock,
        depth: int,
    ) -> None:
        require_injected(order)
        self._order = order
        self._source = source
        self._rule = rule
        self._ledger = ledger
        self._records = records
        self._engine = engine
        self._queue = queue
        self._store = store
        self._clock = clock
        self._depth = depth
        self._ready: deque[_Work] = deque()
        self._asked: dict[str, tuple[_Work, int]] = {}
        self._making: dict[int, ChunkRecord] = {}
        self._chunks = OpenChunks(records, order.order)
        self._failures: list[BirthmarkError] = []

    def run(self, progress: Callable[[int], None]) -> int:
        """Get everything that is still open; tell ``progress`` how many became durable. Return the total.

        After a failure nothing new is sent; what is outstanding is waited for and kept; the worst failure is raised.
        """
        total = 0
        for work in self._resumed():
            if work.complete:
                total += self._record(work, progress)
            else:
                self._ready.append(work)
        for request, answer in self._queue.answers(self._stream()):
            work, position = self._asked.pop(request.idempotency_key)
            if self._accept(work, position, request, answer) and work.complete:
                total += self._record(work, progress)
        if self._failures:
            raise max(self._failures, key=lambda failure: failure.exit_code)
        return total

    def _resumed(self) -> Iterator[_Work]:
        """Yield what an earlier run left under way; give up, on record, what cannot be gone on with."""
        intents = [i for i in self._records.intents("reserved") if i.order == self._order.order and i.chunk is not None]
        still_open = {intent.intent for intent in intents}
        for number in self._store.intents(self._order.order):
            if number not in still_open:
                self._store.remove(self._order.order, number)
        for intent in intents:
            kept = self._store.kept(self._order.order, intent.intent)
            if kept is None or kept.sealed is None or not matches_record(kept, intent):
                with self._ledger.transaction() as tx:
                    tx.append(Abandoned(at=utc_text(self._clock()), intent=intent.intent, reason="requests lost"))
                self._store.remove(self._order.order, intent.intent)
                continue
            answers = dict(self._store.answers(self._order.order, intent.intent))
            yield _Work(intent.intent, self._serials(intent.chunk), kept, answers)

    def _serials(self, chunk: int | None) -> list[str]:
        (record,) = self._records.chunks(self._order.order, "reserved", -1 if chunk is None else chunk - 1, 1)
        return self._named(record)

    def _named(self, chunk: ChunkRecord) -> list[str]:
        ((_, entry),) = self._ledger.entries(chunk.seq, 1)
        return decode_entry(entry)[1].decode("ascii").split("\n")

    def _stream(self) -> Iterator[SigningRequest]:
        """Yield every request that has no answer yet, chunk after chunk, until something fails."""
        while not self._failures and (self._ready or self._request_chunks()):
            work = self._ready.popleft() if self._ready else None
            if work is None:
                continue
            not_after = wanted_not_after(self._rule.profile, self._clock())
            for position, csr in enumerate(work.kept.requests):
                if self._failures:
                    return
                if position not in work.answers:
                    key = idempotency_key(csr)
                    self._asked[key] = (work, position)
                    yield SigningRequest(key, csr, work.device_serials[position], not_after)

    def _request_chunks(self) -> bool:
        """Take what the engine made onto the record; tell whether there was anything left to make."""
        while len(self._making) < self._depth and (chunk := self._chunks.next()) is not None:
            self._making[chunk.chunk] = chunk
            serials = "\n".join(self._named(chunk)).encode("ascii")
            self._engine.make(MakeTask(chunk.chunk, b"", serials, chunk.count))
        if not self._making:
            return False
        for made in self._engine.results():
            if isinstance(made, MadeRequests):
                self._ready.append(self._request(made))
        return True

    def _request(self, made: MadeRequests) -> _Work:
        """Keep the requests, then record the intent: an intent on record always has its requests."""
        chunk = self._making.pop(made.task)
        kept = KeptRequests(made.requests, made.sealed)
        event = Requested(
            at=utc_text(self._clock()),
            order=self._order.order,
            count=chunk.count,
            source=self._source,
            chunk=chunk.chunk,
        )
        with self._ledger.transaction() as tx:
            intent = tx.append(event, made.records)
            self._store.put(self._order.order, intent, kept)
        return _Work(intent, self._named(chunk), kept)

    def _accept(self, work: _Work, position: int, request: SigningRequest, answer: bytes | BirthmarkError) -> bool:
        if isinstance(answer, BirthmarkError):
            self._failures.append(answer)
            return False
        try:
            self._rule.check(
                answer,
                spki=parse_csr(request.csr).spki,
                device_serial=request.device_serial,
                wanted=request.not_after,
                now=self._clock(),
            )
        except Tampered as fault:
            self._failures.append(fault)
            return False
        self._store.add_answer(self._order.order, work.intent, position, answer)
        work.answers[position] = answer
        return True

    def _record(self, work: _Work, progress: Callable[[int], None]) -> int:
        """Record a whole chunk and put its keys into the vault; from then on its identities are in the pool."""
        at = utc_text(self._clock())
        entries = [
            encode_entry(Received(at=at, device=device_serial, intent=work.intent), work.answers[position])
            for position, device_serial in enumerate(work.device_serials)
        ]
        with self._ledger.transaction() as tx:
            tx.append_issued(
                work.intent,
                count=len(entries),
                entries=b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries),
                leaf_hashes=b"".join(sha256(b"\0" + entry).digest() for entry in entries),
            )
            assert work.kept.sealed is not None, "keys of a bulk intent are sealed"  # noqa: S101
            tx.vault.put(work.intent, work.kept.sealed)
        self._store.remove(self._order.order, work.intent)
        progress(len(entries))
        return len(entries)
