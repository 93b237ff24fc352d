"""The ports: what the workflows need from the outside. Every sentence of a docstring is a law with a contract test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

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
    TemplateRecord,
)
from birthmark.model.secret import Secret

__all__ = [
    "Clock",
    "Credential",
    "CredentialRequest",
    "Engine",
    "Entropy",
    "Evidence",
    "Journal",
    "JournalRecord",
    "Keys",
    "Ledger",
    "LogStore",
    "MadeChunk",
    "MakeTask",
    "Probe",
    "Publisher",
    "Records",
    "SealedChunk",
    "SecretsHandler",
    "SignTask",
    "SignedChunk",
    "Source",
    "Target",
    "Transaction",
    "Vault",
]

Clock = Callable[[], datetime]
"""Aware, UTC."""
Entropy = Callable[[int], bytes]
SecretsHandler = Callable[[str], Secret]
"""Turns a secret reference (``env:NAME``, ``file:PATH``, ``fd:3``, ``prompt:``) into the secret."""


class Keys(Protocol):
    """Private keys named by a URI.

    ``open`` returns a ``cryptography`` private-key object. ``generate`` never overwrites a key. Sessions
    stay open until ``close``; closing twice is safe. No operation shows a secret.
    """

    def open(self, uri: str) -> CertificateIssuerPrivateKeyTypes: ...

    def generate(self, uri: str, algorithm: str) -> CertificateIssuerPrivateKeyTypes: ...

    def close(self) -> None: ...


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

    def append_issued(self, intent: int, *, count: int, entries: bytes, leaf_hashes: bytes) -> int:
        """Append all ``issued`` entries of a bulk intent: packed with uint16 lengths, and their leaf hashes."""
        ...

    def serial_prefixes(self, count: int) -> list[bytes]:
        """Return ``count`` prefixes of 8 octets, site prefix (2) | milliseconds (6), greater than any given before."""
        ...

    @property
    def vault(self) -> Vault: ...


class Ledger(Protocol):
    """The log of events and the one writer of it. Total order; heads only grow."""

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
    """Reading the tables that the events fold into."""

    def device(self, device_serial: str) -> DeviceRecord | None: ...

    def order(self, order: str) -> OrderRecord | None: ...

    def orders(self) -> Sequence[OrderRecord]: ...

    def totals(self, order: str) -> OrderTotals: ...

    def chunks(self, order: str, state: str, after: int, limit: int) -> Sequence[ChunkRecord]:
        """Return chunks in ``state`` with a number greater than ``after``, ascending."""
        ...

    def intent(self, intent: int) -> IntentRecord | None: ...

    def intents(self, state: str) -> Sequence[IntentRecord]: ...

    def attempt(self, attempt: str) -> AttemptRecord | None: ...

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


class LogStore(Protocol):
    """The published log: C2SP tiles and the checkpoint as plain files.

    ``write`` may be repeated with the same content. ``publish`` returns after the tiles written before it and then the
    checkpoint are durable.
    """

    def read(self, path: str) -> bytes | None: ...

    def write(self, path: str, data: bytes) -> None: ...

    def publish(self, checkpoint: bytes) -> None: ...


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


@dataclass(frozen=True, slots=True)
class CredentialRequest:
    """What a station asks for. ``csr`` (DER) when the key was born in the device; else a pooled identity is drawn."""

    attempt: str
    station: str
    device_serial: str
    csr: bytes | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """What a device gets. ``private_key`` (PKCS#8 DER) is None when the device made the key itself."""

    device_serial: str
    certificate: bytes
    chain: tuple[bytes, ...]
    """Issuing CA first, root last. DER."""
    private_key: Secret | None
    intent: int
    issued_seq: int


class Source(Protocol):
    """Where the station's credential comes from.

    The same attempt id gets the same answer for ever; the same id with other content is refused
    (``attempt.reused``). A drawn key is never drawn again by another attempt (``pool.drawn``).
    """

    def obtain(self, request: CredentialRequest) -> Credential: ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What the target says of itself before anything is written. ``certificate`` (DER) if one is installed."""

    identity: str
    certificate: bytes | None
    makes_key: bool
    can_sign: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """Read back from the target. ``signature`` over the challenge by the *installed* key where it can sign."""

    certificate: bytes
    chain: tuple[bytes, ...]
    kind: Literal["signature", "digest"]
    signature: bytes | None
    key_digest: bytes | None


class Target(Protocol):
    """The place in the device where the credential is installed.

    ``probe`` writes nothing. ``make_key`` returns a CSR (DER) and, called again before ``install``, a CSR of the same
    key. ``install`` twice with the same credential gives the same result; it is durable on return. ``prove`` reads
    everything back from the target and trusts nothing that ``install`` remembered.
    """

    def probe(self) -> Probe: ...

    def make_key(self, algorithm: str, device_serial: str) -> bytes: ...

    def install(self, credential: Credential) -> None: ...

    def prove(self, challenge: bytes) -> Evidence: ...


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One line of the station's journal."""

    attempt: str
    device_serial: str
    step: str
    target: str


class Journal(Protocol):
    """The station's own durable memory: written before each irreversible act.

    ``record`` returns after the line is on disk. A torn last line is ignored when reading. ``open_attempts`` returns
    the last record of every attempt whose last step is not ``done`` or ``void``.
    """

    def record(self, record: JournalRecord) -> None: ...

    def last(self, device_serial: str) -> JournalRecord | None: ...

    def open_attempts(self) -> Sequence[JournalRecord]: ...
