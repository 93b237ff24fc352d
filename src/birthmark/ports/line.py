"""The line: where credentials come from, where they are installed, and what a station remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from birthmark.model.secret import Secret
from birthmark.wire.service import CredentialAnswer, CredentialAsked

__all__ = [
    "Attestation",
    "Attests",
    "Authority",
    "CountsRepeats",
    "Credential",
    "CredentialRequest",
    "Evidence",
    "Fence",
    "Journal",
    "JournalRecord",
    "Occupies",
    "Probe",
    "Rehearsal",
    "Rehearses",
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
    """What the target says of itself before anything is written. ``certificate`` (DER) if one is installed.

    ``identity`` comes from the device, never from the name of a port. ``attests``: the target is ``Attests`` too, and
    its anchors are at hand.
    """

    identity: str
    certificate: bytes | None
    makes_key: bool
    can_sign: bool
    attests: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """Read back from the target. ``signature``: by the *installed* key, where it can sign.

    ``kind``: ``signature`` over the proof message of the challenge; ``jwt``: a JSON Web Token whose subject is the
    challenge (``wire.jwtproof``), for devices that sign nothing else; ``digest``: no signature, but SHA-256 of the
    private key (PKCS#8 DER) as the device reports it.
    """

    certificate: bytes
    chain: tuple[bytes, ...]
    kind: Literal["signature", "digest", "jwt"]
    signature: bytes | None
    key_digest: bytes | None


class Fence(Protocol):
    """The right to act on one device, for one attempt and a limited time.

    ``hold`` returns while the right stands. ``Unavailable("station.deadline")`` once the time is over, and
    ``Unavailable("station.fenced")`` once it was taken away: then it stays so for ever, and nothing more is done to the
    device. ``remaining``: seconds until the deadline, never negative; a link waits no longer than that. ``token`` is
    another one for every run of every attempt.
    """

    @property
    def token(self) -> str: ...

    def hold(self) -> None: ...

    def remaining(self) -> float: ...


class Target(Protocol):
    """The place in the device where the credential is installed.

    ``probe`` writes nothing. ``make_key`` returns a CSR (DER) and, called again before ``install``, a CSR of the same
    key. ``install`` twice with the same credential gives the same result; it is durable on return. Both ask the fence
    before every act that changes the device: cut at any of these moments, the same call again ends the same way.
    ``prove`` reads everything back from the target and trusts nothing that ``install`` remembered.
    """

    def probe(self) -> Probe: ...

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes: ...

    def install(self, credential: Credential, fence: Fence) -> None: ...

    def prove(self, challenge: bytes) -> Evidence: ...


@runtime_checkable
class CountsRepeats(Protocol):
    """What a ``Target`` behind a noisy link tells besides: how many repeats the link has cost so far, never above its
    own budget."""

    @property
    def link_repeats(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Attestation:
    """What shows where a key lives. ``kind``: how it was shown, as ``tpm2-credential``.

    ``spki`` (DER) is the key it speaks of, ``anchor`` the SHA-256 of the certificate or key of the maker that it was
    checked against, ``statement`` what a third party needs to look at it again: public octets, at most 16 KiB.
    """

    kind: str
    spki: bytes
    anchor: bytes
    statement: bytes


@runtime_checkable
class Attests(Protocol):
    """What a ``Target`` can do besides, where the device can show that a key never leaves it.

    ``attest`` speaks of the key that waits for its certificate, or else of the installed one. It has checked what it
    returns against the maker's anchors and against ``nonce`` (32 octets), and raises ``DeviceFault`` where the device
    cannot show it. It changes nothing in the device that outlives it.
    """

    def attest(self, nonce: bytes) -> Attestation: ...


@runtime_checkable
class Occupies(Protocol):
    """What a ``Target`` says besides, where two URIs can name the same place, or one place takes several devices.

    ``place``: the one thing that two devices cannot share: a port, a directory, a token. Two heads, or two processes,
    are never at work in the same place. Without it the URI without its options is the place.
    """

    @property
    def place(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A stand-in for one device, made to be thrown away. ``target``: its URI, with an absolute path.

    ``writes`` and ``irreversible``: what the same run on the real device would change there, one short phrase each;
    ``irreversible`` is what no power can take back: fuses burned, zones locked.
    """

    target: str
    writes: tuple[str, ...]
    irreversible: tuple[str, ...] = ()


@runtime_checkable
class Rehearses(Protocol):
    """What the class of a ``Target`` can do besides, where its production path can be tried without a device.

    ``rehearsal`` makes the stand-in in ``directory`` (empty, for us alone, removed afterwards) and touches nothing
    else, above all not what ``uri`` names. The stand-in calls itself ``device_serial`` and takes the same steps as the
    device would, the ones that cannot be taken back included. Where there is no stand-in for these options it is
    ``Refused("rehearsal.impossible")``.
    """

    def rehearsal(self, uri: str, *, device_serial: str, directory: str) -> Rehearsal: ...


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
