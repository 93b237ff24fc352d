"""Clouds and registries: what they are told of each device, and what they say they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "Cloud",
    "CloudAuthority",
    "CloudLimits",
    "CloudPage",
    "CloudRecord",
    "Estimate",
    "EstimatedStep",
    "Obstacle",
    "Outcome",
    "ProvePossession",
    "Registration",
    "Standing",
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
    it. ``certificates``: SHA-256 (hex) of each, sorted.
    """

    key: str
    name: str
    standing: Standing
    certificates: tuple[str, ...]


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
