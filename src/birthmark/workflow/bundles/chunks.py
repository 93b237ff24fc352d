"""Walking an order chunk by chunk, whatever state its chunks are in, in the order of its devices."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from birthmark.model.events import DevicesOrdered, decode_entry
from birthmark.model.records import ChunkRecord
from birthmark.ports import Ledger, Records

__all__ = ["ANY_STATE", "chunks_in", "device_serials_of"]

ANY_STATE = ("ordered", "reserved", "issued", "consigned")
_PAGE = 64


def chunks_in(records: Records, order: str, states: Sequence[str]) -> Iterator[ChunkRecord]:
    """Yield the chunks of an order that are in one of ``states``, ascending; each was read before it is needed."""
    return heapq.merge(*(_in_state(records, order, state) for state in states), key=lambda chunk: chunk.chunk)


def _in_state(records: Records, order: str, state: str) -> Iterator[ChunkRecord]:
    last = -1
    while page := records.chunks(order, state, last, _PAGE):
        yield from page
        last = page[-1].chunk


def device_serials_of(ledger: Ledger, chunk: ChunkRecord) -> tuple[DevicesOrdered, bytes]:
    """Return the entry that names a chunk's devices, and their serials, one a line."""
    ((_, entry),) = ledger.entries(chunk.seq, 1)
    event, device_serials = decode_entry(entry)
    assert isinstance(event, DevicesOrdered), "a chunk's entry names its devices"  # noqa: S101
    return event, device_serials
