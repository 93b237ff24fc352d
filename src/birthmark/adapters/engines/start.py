"""What an engine needs to begin with an order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from birthmark.adapters.engines.worker import ChunkSigner
from birthmark.ports import MadeChunk, MakeTask, SignedChunk, SignTask

__all__ = ["BulkStart", "ChunkWorker", "WorkerStart"]


class ChunkWorker(Protocol):
    """What works in a process: ``BulkWorker``, or ``RequestWorker`` where somebody else signs."""

    def make(self, task: MakeTask) -> MadeChunk: ...

    def sign(self, task: SignTask) -> SignedChunk: ...


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """How a worker comes into being: ``build(secret_values)`` is importable and returns the worker."""

    build: Callable[..., ChunkWorker]
    arguments: tuple[object, ...]
    secrets: dict[str, bytes]

    def __repr__(self) -> str:
        return f"WorkerStart(build={self.build!r})"


@dataclass(frozen=True, slots=True)
class BulkStart:
    """``worker``: for engines whose workers also sign. ``signer``: for those that sign in this process; it opens the
    CA key. ``template`` and ``recipient`` (the public half of the vault) are all that makers elsewhere need."""

    worker: WorkerStart
    signer: Callable[[], ChunkSigner]
    template: bytes
    recipient: bytes
