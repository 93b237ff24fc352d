"""Make the identities of an order: keys, certificates and their record, chunk by chunk, safe to kill at any instant.

For each chunk: the engine makes and seals keys and prepares the TBS bytes; ``tx1`` records the intent; only then the
engine signs; ``tx2`` records the certificates and keeps the sealed keys. One commit carries the ``tx1`` of some
chunks and the ``tx2`` of others, so that one fsync serves many.

A crash before ``tx1`` leaves nothing. A crash between ``tx1`` and ``tx2`` leaves an open intent whose keys are gone:
the next run abandons it, on record, and makes the chunk anew. Nothing is known to anyone outside before ``tx2``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from birthmark.model.events import Abandoned, Reserved, decode_entry, utc_text
from birthmark.model.records import ChunkRecord, OrderRecord
from birthmark.ports import (
    Clock,
    Engine,
    Ledger,
    MadeChunk,
    MakeTask,
    Records,
    SealedChunk,
    SignedChunk,
    SignTask,
    Transaction,
)
from birthmark.workflow.orders.chunks import OpenChunks, require_injected

__all__ = ["Fulfilment", "abandon_open_intents"]

_PREFIX_BLOCK = 64


@dataclass(slots=True)
class _Work:
    chunk: ChunkRecord
    serial_prefix: bytes
    intent: int = -1
    sealed: SealedChunk | None = None


def abandon_open_intents(ledger: Ledger, records: Records, order: str, *, clock: Clock) -> int:
    """Give up what a crash left between ``tx1`` and ``tx2``; call only while nobody else makes this order."""
    open_intents = [i for i in records.intents("reserved") if i.order == order and i.chunk is not None]
    if open_intents:
        with ledger.transaction() as tx:
            for intent in open_intents:
                tx.append(Abandoned(at=utc_text(clock()), intent=intent.intent, reason="interrupted"))
    return len(open_intents)


class Fulfilment:
    """One run over an order. ``depth`` chunks are under way at once, so memory does not grow with the order."""

    def __init__(
        self,
        order: OrderRecord,
        *,
        template: str,
        ledger: Ledger,
        records: Records,
        engine: Engine,
        clock: Clock,
        depth: int,
    ) -> None:
        require_injected(order)
        self._order = order
        self._template = template
        self._ledger = ledger
        self._records = records
        self._engine = engine
        self._clock = clock
        self._depth = depth
        self._under_way: dict[int, _Work] = {}
        self._chunks = OpenChunks(records, order.order)
        self._prefixes: list[bytes] = []

    def run(self, progress: Callable[[int], None]) -> int:
        """Make everything that is still open; tell ``progress`` how many became durable. Return the total."""
        abandon_open_intents(self._ledger, self._records, self._order.order, clock=self._clock)
        with self._ledger.transaction() as tx:
            self._prefixes = tx.serial_prefixes(_PREFIX_BLOCK)
        total = 0
        while self._start_some() or self._under_way:
            done = self._commit(self._engine.results())
            total += done
            if done:
                progress(done)
        return total

    def _start_some(self) -> bool:
        """Keep ``depth`` chunks under way; tell whether there were any to start."""
        started = False
        while len(self._under_way) < self._depth and self._prefixes and (chunk := self._chunks.next()) is not None:
            serial_prefix = self._prefixes.pop(0)
            self._under_way[chunk.chunk] = _Work(chunk, serial_prefix)
            ((_, entry),) = self._ledger.entries(chunk.seq, 1)
            _, device_serials = decode_entry(entry)
            self._engine.make(MakeTask(chunk.chunk, serial_prefix, device_serials, chunk.count))
            started = True
        return started

    def _commit(self, results: Sequence[MadeChunk | SignedChunk]) -> int:
        """Record a round of results in one transaction, then let the engine sign what is on record."""
        done = 0
        to_sign: list[SignTask] = []
        at = utc_text(self._clock())
        with self._ledger.transaction() as tx:
            for result in results:
                if isinstance(result, MadeChunk):
                    to_sign.append(self._reserve(tx, result, at))
                else:
                    done += self._store(tx, result)
            if len(self._prefixes) < _PREFIX_BLOCK // 2:
                self._prefixes += tx.serial_prefixes(_PREFIX_BLOCK)
        for task in to_sign:
            self._engine.sign(task)
        return done

    def _reserve(self, tx: Transaction, made: MadeChunk, at: str) -> SignTask:
        work = self._under_way[made.task]
        work.sealed = made.sealed
        event = Reserved(
            at=at,
            order=self._order.order,
            count=work.chunk.count,
            serial_prefix=work.serial_prefix.hex(),
            template=self._template,
            chunk=work.chunk.chunk,
        )
        work.intent = tx.append(event, made.records)
        return SignTask(made.task, work.intent, at)

    def _store(self, tx: Transaction, signed: SignedChunk) -> int:
        work = self._under_way.pop(signed.task)
        tx.append_issued(work.intent, count=work.chunk.count, entries=signed.entries, leaf_hashes=signed.leaf_hashes)
        if work.sealed is not None:
            tx.vault.put(work.intent, work.sealed)
        return work.chunk.count
