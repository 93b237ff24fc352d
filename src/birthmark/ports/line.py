"""The line: where credentials come from, where they are installed, and what a station remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from birthmark.model.secret import Secret
from birthmark.wire.service import CredentialAnswer, CredentialAsked

__all__ = [
    "Authority",
    "Credential",
    "CredentialRequest",
    "Evidence",
    "Journal",
    "JournalRecord",
    "Probe",
    "Source",
    "Target",
]


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


class Authority(Protocol):
    """The authority's service as a site sees it.

    ``credential`` asks again by itself, with the same attempt, when an answer does not come whole; what the authority
    refused is raised as it said it. ``Unavailable("authority.unreachable")``: nothing is known of what became of it.
    """

    def credential(self, asked: CredentialAsked) -> CredentialAnswer: ...


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
