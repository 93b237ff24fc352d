"""A witness: it cosigns the head of another's log after it has verified that it extends the head it cosigned before.

Order: log known; signature of the log; sizes; consistency proof; write the new head; sign. Looking at the last head
and writing the new one is one step under a lock, and the head is durable before the answer is (c2sp.org/tlog-witness).
Power cut before the write: nothing was seen. After it: the head counts as seen, and the log asks again for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Refused, Tampered
from birthmark.ports import Clock
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint, parse
from birthmark.tlog.cosignature import cosign
from birthmark.tlog.merkle import consistency_proof, verify_consistency
from birthmark.tlog.note import VerifierKey, split_note
from birthmark.wire.addcheckpoint import AddCheckpoint

__all__ = ["Heads", "Witness", "request_from_tiles"]


class Heads(Protocol):
    """The heads that a witness cosigned last.

    ``latest`` is the head of a log, of size 0 before the first. ``record`` is durable on return. ``exclusive`` lets one
    at a time look and record, of all threads and processes.
    """

    def exclusive(self) -> AbstractContextManager[None]: ...

    def latest(self, origin: str) -> Checkpoint: ...

    def record(self, origin: str, note: bytes) -> None: ...


class Witness:
    """Cosigns heads of ``logs`` (origin → key of the log) under the name ``name``."""

    def __init__(
        self, name: str, key: Ed25519PrivateKey, *, logs: Mapping[str, VerifierKey], heads: Heads, clock: Clock
    ) -> None:
        self.name = name
        self._key = key
        self._logs = logs
        self._heads = heads
        self._clock = clock

    def add_checkpoint(self, request: AddCheckpoint) -> str:
        """Return the cosignature line of a head, which is on disk then.

        Raises ``Refused``: ``witness.log.unknown`` (404), ``witness.size`` (400), ``witness.conflict`` (409; fact
        ``size``: that of the last head); ``Tampered``: ``witness.log.signature`` (403), ``witness.fork`` (409),
        ``log.proof.consistency`` (422), and ``log.note.*`` or ``log.checkpoint.*`` for what is none (400).
        """
        text, _ = split_note(request.checkpoint)
        origin = parse(text).origin
        checkpoint = self._signed(request.checkpoint, origin)
        if request.old > checkpoint.size:
            raise Refused(
                "witness.size",
                f"a head of {checkpoint.size} entries extends none of {request.old}",
                hint="Ask with the size of the head that was cosigned last.",
                old=str(request.old),
            )
        with self._heads.exclusive():
            self._require_extension(request, checkpoint, self._heads.latest(origin))
            self._heads.record(origin, request.checkpoint)
            timestamp = int(self._clock().timestamp())
            return cosign(text, self.name, self._key, timestamp=timestamp)

    def latest(self, origin: str) -> Checkpoint:
        """Return the head of a log that was cosigned last."""
        if origin not in self._logs:
            raise _unknown(origin)
        return self._heads.latest(origin)

    def _signed(self, note: bytes, origin: str) -> Checkpoint:
        if origin not in self._logs:
            raise _unknown(origin)
        try:
            return open_checkpoint(note, origin, self._logs[origin])
        except Tampered as problem:
            if problem.code not in ("log.note.signature", "log.note.unsigned"):
                raise
            raise Tampered(
                "witness.log.signature",
                f"this head is not signed by the log {origin[:200]}",
                hint="Ask the log for its checkpoint again, and compare its verifier key.",
                origin=origin[:200],
            ) from None

    def _require_extension(self, request: AddCheckpoint, new: Checkpoint, last: Checkpoint) -> None:
        if request.old != last.size:
            raise Refused(
                "witness.conflict",
                f"the head that was cosigned last has {last.size} entries, not {request.old}",
                hint="Ask again with a proof from that size.",
                size=last.size,
            )
        if new.size == last.size and new.root != last.root:
            raise Tampered(
                "witness.fork",
                f"the log {new.origin[:200]} shows two heads of {new.size} entries",
                hint="Keep both signed checkpoints: they prove that the log was rewritten.",
                origin=new.origin[:200],
                size=new.size,
            )
        verify_consistency(last.size, new.size, last.root, new.root, request.proof)


def request_from_tiles(note: bytes, size: int, old: int, read_hash: Callable[[int, int], bytes]) -> AddCheckpoint:
    """Return the request for a checkpoint whose tiles are at hand."""
    return AddCheckpoint(old, tuple(consistency_proof(old, size, read_hash)), note)


def _unknown(origin: str) -> Refused:
    return Refused(
        "witness.log.unknown",
        f"this witness knows no log {origin[:200]}",
        hint="Let its operator add it: birthmark witness watch DIR VKEY.",
        origin=origin[:200],
    )
