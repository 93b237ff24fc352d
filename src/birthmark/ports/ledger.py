"""The record: the ledger, its transactions, the sealed keys beside it, and how it is read and published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from birthmark.model.events import Event
from birthmark.model.records import (
    AttemptRecord,
    CaRecord,
    ChunkRecord,
    DeviceRecord,
    IntentRecord,
    LogHead,
    OrderRecord,
    OrderTotals,
    Publication,
    RevocationRecord,
    TemplateRecord,
)
from birthmark.model.siterecords import (
    AccessRecord,
    AssignmentRecord,
    AuthorityRecord,
    BundleRecord,
    FindingRecord,
    SettledRecord,
    SiteRecord,
)

__all__ = [
    "Ledger",
    "LogStore",
    "Publisher",
    "Records",
    "SealedChunk",
    "SiteRecords",
    "Transaction",
    "Vault",
]


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """Private keys sealed where they were born (docs/formats/vault.md): slots of equal size in device order."""

    encapsulated: bytes
    slot_size: int
    slots: bytes


class Vault(Protocol):
    """Sealed private keys, in the same transaction as the events.

    ``erase`` overwrites the slot with zeros; a later ``read`` of it returns None.
    """

    def put(self, intent: int, chunk: SealedChunk) -> None: ...

    def read(self, intent: int, position: int) -> tuple[bytes, bytes] | None:
        """Return (encapsulated, slot)."""
        ...

    def chunk(self, intent: int) -> SealedChunk | None:
        """Return all slots of an intent, erased ones as zeros; None if there are none."""
        ...

    def erase(self, intent: int, position: int) -> None: ...


class Transaction(Protocol):
    """One durable step: everything in it is kept, or nothing is. It is durable when the context ends.

    ``append`` writes the event into the log and folds it into the tables; an unlawful event is refused and
    nothing changes. A certificate serial prefix is never given twice, also by another process or after a crash. A key
    (SPKI hash) that was ever reserved is refused (``key.reused``). An attempt id is used once.
    """

    def append(self, event: Event, attachment: bytes = b"") -> int:
        """Return the sequence number of the new entry."""
        ...

    def append_together(self, steps: Sequence[tuple[Event, bytes]]) -> int:
        """Append events (each with its attachment) of different devices in few database calls; return the number of
        the first, the others follow it.

        Only what a device goes through alone: ``reserved`` for an attempt, and ``issued``. If one of them is unlawful
        all are refused, and ``Refused("ledger.together")`` need not say which: undo the part, append one by one.
        """
        ...

    def append_issued(self, intent: int, *, count: int, entries: bytes, leaf_hashes: bytes) -> int:
        """Append all ``issued`` (or ``received``) entries of a bulk intent: packed with uint16 lengths, and their leaf
        hashes."""
        ...

    def part(self) -> AbstractContextManager[None]:
        """A step within the transaction: what fails inside it undoes only what was done inside it, and is raised.

        Outside a part a refused event takes the whole transaction with it. Parts may nest.
        """
        ...

    def serial_prefixes(self, count: int) -> list[bytes]:
        """Return ``count`` prefixes of 8 octets, site prefix (2) | milliseconds (6), greater than any given before."""
        ...

    @property
    def vault(self) -> Vault: ...


class Ledger(Protocol):
    """The log of events and the one writer of it. Total order; heads only grow.

    A transaction may be ended by another thread than began it.
    """

    def transaction(self) -> AbstractContextManager[Transaction]: ...

    def entries(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence number, entry) in order."""
        ...

    def head(self) -> LogHead: ...

    def close(self) -> None: ...


class Publisher(Protocol):
    """What the log's publication needs from the ledger.

    ``record_publication`` is durable on return and refuses a head that is smaller than one recorded before.
    """

    def head(self) -> LogHead: ...

    def packed(self, first: int, count: int) -> Iterator[bytes]:
        """Yield the entries as they stand in bundles (uint16 length before each), in pieces, in order."""
        ...

    def leaf_hashes(self, first: int, count: int) -> bytes: ...

    def publication(self) -> Publication: ...

    def record_publication(self, publication: Publication) -> None: ...


class Records(Protocol):
    """Reading the tables that the events fold into: what is committed, also from inside a transaction."""

    def device(self, device_serial: str) -> DeviceRecord | None: ...

    def devices(self, device_serials: Sequence[str]) -> Mapping[str, DeviceRecord]:
        """Return those of the devices that are on record, at most some hundreds."""
        ...

    def order(self, order: str) -> OrderRecord | None: ...

    def orders(self) -> Sequence[OrderRecord]: ...

    def totals(self, order: str) -> OrderTotals: ...

    def chunks(self, order: str, state: str, after: int, limit: int) -> Sequence[ChunkRecord]:
        """Return chunks in ``state`` with a number greater than ``after``, ascending."""
        ...

    def touched(self, order: str, chunk: int) -> Sequence[int]:
        """Return the places (0-based, ascending) of a chunk's devices that have a state of their own."""
        ...

    def intent(self, intent: int) -> IntentRecord | None: ...

    def intents(self, state: str) -> Sequence[IntentRecord]: ...

    def attempt(self, attempt: str) -> AttemptRecord | None: ...

    def attempts(self, attempts: Sequence[str]) -> Mapping[str, AttemptRecord]:
        """Return those of the attempts that are on record, at most some hundreds."""
        ...

    def ca(self, ca: str) -> CaRecord | None: ...

    def cas(self) -> Sequence[CaRecord]: ...

    def template(self, template: str) -> TemplateRecord | None: ...

    def templates(self, ca: str, profile: str) -> Sequence[TemplateRecord]:
        """Return admitted templates, the latest first."""
        ...

    def stations(self) -> dict[str, str]:
        """Return verifier keys by station."""
        ...

    def is_revoked(self, cert_serial: bytes) -> bool: ...

    def revocations(self, ca: str) -> Sequence[RevocationRecord]:
        """Return the revoked certificates of devices whose orders name ``ca``, in the order of the log."""
        ...


class SiteRecords(Protocol):
    """Reading the tables of sites, assignments, access and bundles; laws as of ``Records``."""

    def site(self, site: str) -> SiteRecord | None: ...

    def sites(self) -> Sequence[SiteRecord]: ...

    def assignment(self, order: str) -> AssignmentRecord | None: ...

    def assignments(self, site: str) -> Sequence[AssignmentRecord]: ...

    def access(self, spki_sha256: str) -> AccessRecord | None: ...

    def accesses(self) -> Sequence[AccessRecord]: ...

    def bundle(self, bundle: str) -> BundleRecord | None: ...

    def bundles(self, order: str) -> Sequence[BundleRecord]: ...

    def settled(self, device_serial: str) -> SettledRecord | None: ...

    def findings(self, site: str) -> Sequence[FindingRecord]: ...

    def authority(self) -> AuthorityRecord | None:
        """Return whom this site works for; None at an authority."""
        ...

    def approvers(self) -> tuple[int, tuple[str, ...]] | None:
        """Return threshold and verifier keys of the rule in force."""
        ...

    def is_approval_used(self, plan_sha256: str) -> bool: ...


class LogStore(Protocol):
    """The published log: C2SP tiles and the checkpoint as plain files.

    ``write`` may be repeated with the same content. ``publish`` returns after the tiles written before it and then the
    checkpoint are durable.
    """

    def read(self, path: str) -> bytes | None: ...

    def write(self, path: str, data: bytes) -> None: ...

    def publish(self, checkpoint: bytes) -> None: ...
