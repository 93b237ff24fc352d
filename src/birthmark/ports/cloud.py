"""Clouds and registries: what they are told of each device, and what they say they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from birthmark.wire.registry import LogCursor

__all__ = [
    "BlocksInHubs",
    "BookState",
    "Cloud",
    "CloudAuthority",
    "CloudLimits",
    "CloudPage",
    "CloudRecord",
    "CountsCalls",
    "DueDevice",
    "Estimate",
    "EstimatedStep",
    "KnownDevice",
    "Obstacle",
    "Outcome",
    "ParkedDevice",
    "ProvePossession",
    "RegisterBook",
    "Registration",
    "ScratchRecords",
    "Settlement",
    "Standing",
    "ToldDevice",
]

Standing = Literal["enabled", "blocked"]
ProvePossession = Callable[[str, str], bytes]
"""(name of our CA, verification code) → certificate (DER) with the code as its one CN, signed by that CA."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What a cloud is to know of one device from now on.

    ``enabled``: let it in. ``blocked``: let it in no more, not even by its CA. ``certificates`` (DER): the current one
    first; a second one is the identity before it, still let in while a certificate is rolled. ``chain`` (DER): of the
    first certificate, issuing CA first, root last. A blocked device may have no certificate at all.
    """

    device_serial: str
    standing: Standing
    certificates: tuple[bytes, ...]
    chain: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CloudRecord:
    """What a cloud holds of one device, in terms that both sides can compare.

    ``key`` is how the cloud tells records apart (lower case where case does not count there), ``name`` how it writes
    it. ``certificates``: SHA-256 (hex) of each, sorted. ``place``: where else than in the record its standing was read,
    for a person; it is not compared.
    """

    key: str
    name: str
    standing: Standing
    certificates: tuple[str, ...]
    place: str = ""


@dataclass(frozen=True, slots=True)
class CloudPage:
    """Some records, in any order, and where to go on; ``after`` None: that was all. ``calls``: what it has cost."""

    records: Sequence[CloudRecord]
    after: str | None
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one registration.

    ``done``: the cloud holds it now. ``same``: it held it already, compared. ``covered``: the cloud knows the device by
    its CA and needs nothing. ``refused``: the cloud says no to this one; ``code`` is ours (dotted), ``detail`` the
    cloud's own code and words, without secrets.
    """

    device_serial: str
    kind: Literal["done", "same", "covered", "refused"]
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CloudAuthority:
    """An issuing CA whose devices the cloud is to know. ``certificates`` (DER): the current one first, then one that
    is being rolled out. ``chain`` (DER): what stands above the current one, root last."""

    name: str
    certificates: tuple[bytes, ...]
    chain: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CloudLimits:
    """``batch``: most registrations of one ``tell``. ``lanes``: most ``tell`` at once."""

    batch: int
    calls_a_minute: float
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class EstimatedStep:
    """Part of a plan. ``calls``: to the cloud; ``minutes``: at its limits; ``why``: the reason it is done so."""

    what: str
    calls: int
    minutes: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a plan cannot be carried out: a stable dotted code, the facts in one sentence, one hint."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a registration will take, before anything is sent."""

    steps: tuple[EstimatedStep, ...]
    obstacles: tuple[Obstacle, ...] = ()


class Cloud(Protocol):
    """A registry that is told of devices. Its constructor is ``(uri, *, secrets, base)`` and sends nothing.

    ``expected`` and ``estimate`` send nothing and are the same for the same arguments. ``expected`` is the record that
    the cloud holds once it was told, or None where it needs none of its own, and ``Refused("cloud.*")`` for what the
    cloud would never take: what it refuses is never sent.

    ``prepare`` makes our CAs known and proven, and whatever groups, policies and templates the devices need; called
    again it changes nothing and says so. ``Refused("cloud.*")``, before anything is sent, where the cloud's own limits
    would break. It returns one line for a person on each thing that it found or made.

    ``tell`` takes up to ``limits.batch`` registrations of different devices and returns one outcome for each, in their
    order. Told twice is told once: what the cloud already holds is ``same`` only after it was compared, and what it
    holds differently is brought to what was told. ``Unavailable``: nothing is known of any of them, and all may be told
    again; its fact ``retry_after`` (seconds) says when, if the cloud said so. ``Misconfigured``: it does not let us in.
    ``Refused("cloud.call.refused")``: the cloud took none of them and does not say which one is at fault.
    Threads may call it at once, up to ``limits.lanes``.

    ``page`` returns records that the cloud holds of its own; ``after`` "" begins at the start. Every record that is
    there all the while is returned at least once. ``calls_of`` is what a ``tell`` of that many costs at most, when no
    answer is lost. No error, outcome or record shows a secret. ``name`` goes on record.
    """

    @property
    def name(self) -> str: ...

    @property
    def limits(self) -> CloudLimits: ...

    def expected(self, registration: Registration) -> CloudRecord | None: ...

    def estimate(self, devices: int, authorities: Sequence[CloudAuthority]) -> Estimate: ...

    def prepare(self, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> Sequence[str]: ...

    def calls_of(self, registrations: Sequence[Registration]) -> int: ...

    def tell(self, registrations: Sequence[Registration]) -> Sequence[Outcome]: ...

    def page(self, after: str) -> CloudPage: ...

    def close(self) -> None: ...


@runtime_checkable
class CountsCalls(Protocol):
    """What a ``Cloud`` can do besides: say how many requests it has sent, answered or not.

    Then the pace is kept by what calls cost, and not by the most that ``calls_of`` says they could.
    """

    @property
    def calls(self) -> int: ...


@runtime_checkable
class BlocksInHubs(Protocol):
    """What the class of a ``Cloud`` can do besides: block devices where they work, beside where they register.

    ``with_hubs`` returns its URI with these hubs in it: host name → reference to what lets us in. It sends nothing;
    ``Misconfigured`` where a hub or a reference cannot be one.
    """

    def with_hubs(self, uri: str, hubs: Mapping[str, str]) -> str: ...


BookState = Literal["due", "asked", "settled", "parked"]


@dataclass(frozen=True, slots=True)
class DueDevice:
    """A device of which a cloud is to be told. ``revision``: number of the log entry that says so.

    ``told_seq``: the entry of our log with the certificate that the cloud was last let in with; None if there is none.
    """

    device_serial: str
    revision: int
    tries: int
    told_seq: int | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a device that was asked. ``outcome`` None: nothing is known, it is due again.

    ``key``, ``certificate_seq``: as which record, and with the certificate of which entry of our log, it is told.
    """

    device: DueDevice
    outcome: Literal["done", "same", "covered", "refused"] | None
    standing: Standing = "blocked"
    key: str | None = None
    certificate_seq: int | None = None
    code: str = ""
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """Where a device stands in a book; ``told_seq`` as of ``DueDevice``."""

    state: BookState
    told_seq: int | None


@dataclass(frozen=True, slots=True)
class ParkedDevice:
    """A device that a cloud will not take, and why; nothing is tried until somebody says so."""

    device_serial: str
    revision: int
    tries: int
    code: str
    detail: str
    hint: str


@dataclass(frozen=True, slots=True)
class ToldDevice:
    """A settlement that does not stand in the log yet."""

    device_serial: str
    revision: int
    standing: Standing
    outcome: str


class RegisterBook(Protocol):
    """What one cloud was told, and what it is to be told yet. Every change is one durable transaction.

    ``fold`` notes devices with the entries that speak of them, and the cursor behind those, together: a device that is
    new or has a newer entry is due, whatever became of it before. ``turn`` settles what was asked and takes up to
    ``take`` devices that are due, of the oldest entries first, as asked; a settlement of another revision than the one
    in the book changes nothing. ``recover`` makes due again what was asked by a run that ended, and says how many.
    ``unlogged`` returns settlements until ``mark_logged`` was called with them.
    """

    def cursor(self) -> LogCursor | None: ...

    def fold(self, entries: Mapping[str, int], cursor: LogCursor) -> int:
        """Return how many devices became due."""
        ...

    def recover(self) -> int: ...

    def turn(self, settlements: Sequence[Settlement], take: int) -> Sequence[DueDevice]: ...

    def holders(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Return the device of each of these record keys (at most some hundreds) that a device was told as."""
        ...

    def known(self, device_serials: Sequence[str]) -> Mapping[str, KnownDevice]:
        """Return those of the devices (at most some hundreds) that are in the book."""
        ...

    def counts(self) -> Mapping[BookState, int]: ...

    def parked(self, after: str, limit: int) -> Sequence[ParkedDevice]:
        """Return parked devices with a serial greater than ``after``, ascending."""
        ...

    def reopen(self, device_serials: Sequence[str] | None) -> int:
        """Make these devices due that are settled or parked (None: all that are parked); return how many it were."""
        ...

    def unlogged(self, limit: int) -> Sequence[ToldDevice]: ...

    def mark_logged(self, told: Sequence[ToldDevice]) -> None: ...

    def prepared(self) -> str | None:
        """Return what ``note_prepared`` was last called with."""
        ...

    def note_prepared(self, authorities_sha256: str) -> None: ...

    def close(self) -> None: ...


class ScratchRecords(Protocol):
    """Room for comparing more records than fit into memory; it is gone with the process.

    ``touch`` notes devices, ``devices`` returns them in pages, ascending. ``expect`` notes the record of a device;
    ``match`` returns, for each record of a page, the device and the expected record with its key, and counts it as
    seen. ``unseen`` returns expected records that were never seen, in pages, ascending by their keys.
    """

    def touch(self, device_serials: Sequence[str]) -> None: ...

    def devices(self, after: str, limit: int) -> Sequence[str]: ...

    def expect(self, records: Sequence[tuple[str, CloudRecord]]) -> None: ...

    def match(self, records: Sequence[CloudRecord]) -> Sequence[tuple[str, CloudRecord] | None]: ...

    def unseen(self, after: str, limit: int) -> Sequence[tuple[str, CloudRecord]]: ...

    def close(self) -> None: ...
