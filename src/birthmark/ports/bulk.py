"""Bulk work: who makes keys and signatures by the thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from birthmark.ports.ledger import SealedChunk

__all__ = ["Engine", "MadeChunk", "MadeRequests", "MakeTask", "SignTask", "SignedChunk"]


@dataclass(frozen=True, slots=True)
class MakeTask:
    """Make, seal and prepare one chunk. The engine draws the random half of each certificate serial."""

    task: int
    serial_prefix: bytes
    device_serials: bytes
    """One a line."""
    count: int


@dataclass(frozen=True, slots=True)
class MadeChunk:
    """``records``: count × (random 8 | SPKI hash 32 | TBS hash 32). The TBS bytes stay with the engine."""

    task: int
    records: bytes
    sealed: SealedChunk


@dataclass(frozen=True, slots=True)
class MadeRequests(MadeChunk):
    """A chunk that somebody else signs. ``records``: count × (SPKI hash 32 | request hash 32); nothing is kept back.

    ``requests``: PKCS#10 (DER) in device order.
    """

    requests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignTask:
    """Sign a made chunk, now that its intent ``intent`` is on record. ``at`` is the event time."""

    task: int
    intent: int
    at: str


@dataclass(frozen=True, slots=True)
class SignedChunk:
    """``entries``: the packed ``issued`` entries (uint16 length each); ``leaf_hashes``: 32 octets each."""

    task: int
    entries: bytes
    leaf_hashes: bytes


class Engine(Protocol):
    """Makes keys and signatures in bulk, on as many workers as it has.

    A chunk is signed only after ``sign`` was called for it. Results arrive in any order. A worker that dies is
    ``StationFault("engine.worker.died")`` from ``results``; nothing it had is lost that was on record.
    """

    def make(self, task: MakeTask) -> None: ...

    def sign(self, task: SignTask) -> None: ...

    def results(self) -> Sequence[MadeChunk | SignedChunk]:
        """Wait for at least one result and return all that are there."""
        ...

    def close(self) -> None: ...
