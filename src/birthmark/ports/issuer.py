"""Certificates that a third party's service signs: the service, the pace at which it is asked, what is under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from birthmark.errors import BirthmarkError
from birthmark.ports.ledger import SealedChunk

__all__ = ["KeptRequests", "RequestStore", "SigningQueue", "SigningRequest", "SigningService"]


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """One certificate that is wanted.

    ``idempotency_key``: 32 hex digits that follow from ``csr`` (DER). ``not_after``: until when it is to be valid.
    """

    idempotency_key: str
    csr: bytes
    device_serial: str
    not_after: datetime


class SigningService(Protocol):
    """A third party's service that signs what we ask for. What it answers is not believed: the caller checks it.

    The same idempotency key gets the same certificate where the service can do that. ``Unavailable``: nothing is
    known to be decided, and the same request may be sent again; its fact ``retry_after`` (seconds) says when, if the
    service said so. ``Refused``: the service says no to this request. ``Misconfigured``: it does not let us in.
    ``Tampered``: its answer cannot be what was asked for. Threads may call ``sign`` at once. No error shows a secret.
    ``name`` goes on record and holds no secret.
    """

    @property
    def name(self) -> str: ...

    def sign(self, request: SigningRequest) -> bytes:
        """Return the certificate (DER)."""
        ...

    def close(self) -> None: ...


class SigningQueue(Protocol):
    """Asks a service: never more than so many requests at once, never faster than so many a second.

    Every request that is taken from ``requests`` gets exactly one answer, in any order; a request is taken only when
    there is room for it. After the iterator ends or is closed nothing is outstanding.
    """

    def answers(
        self, requests: Iterable[SigningRequest]
    ) -> Iterator[tuple[SigningRequest, bytes | BirthmarkError]]: ...


@dataclass(frozen=True, slots=True)
class KeptRequests:
    """The requests (DER) of an intent in device order, and their sealed keys unless those are born in the devices."""

    requests: tuple[bytes, ...]
    sealed: SealedChunk | None


class RequestStore(Protocol):
    """What is under way with a service, kept until it is on record. Everything is durable on return.

    ``put`` may be repeated and replaces, answers included. ``kept`` returns None for what is missing or damaged, never
    something else than was put. ``answers``: position → certificate (DER); a torn last one is left out.
    """

    def put(self, order: str, intent: int, kept: KeptRequests) -> None: ...

    def kept(self, order: str, intent: int) -> KeptRequests | None: ...

    def add_answer(self, order: str, intent: int, position: int, certificate: bytes) -> None: ...

    def answers(self, order: str, intent: int) -> Mapping[int, bytes]: ...

    def intents(self, order: str) -> Sequence[int]: ...

    def remove(self, order: str, intent: int) -> None: ...
