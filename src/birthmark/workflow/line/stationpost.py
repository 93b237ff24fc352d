"""What a station works with and what it says: the post, the request, the progress, the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.ports import Clock, Entropy, Journal, Ledger, Records
from birthmark.ports.admission import Admission
from birthmark.wire.receipt import Handshake
from birthmark.workflow.handout import ChainOf
from birthmark.workflow.line.residency import Residency

__all__ = ["DEVICE_STEPS", "Admitted", "Outcome", "Progress", "ProvisionRequest", "StationPost", "new_attempt"]

DEVICE_STEPS = frozenset({"probe", "make_key", "attest", "install", "prove", "handshake", "cloud"})
"""Steps in which the station waits for the device, its link or its cloud; the rest of the time is the engine's."""


@dataclass(frozen=True, slots=True)
class StationPost:
    """What one station works with, for all its heads. ``monotonic``: seconds, for durations only."""

    name: str
    origin: str
    software: str
    ledger: Ledger
    records: Records
    journal: Journal
    receipt_key: Ed25519PrivateKey
    chain_of: ChainOf
    clock: Clock
    monotonic: Callable[[], float]
    entropy: Entropy


@dataclass(frozen=True, slots=True)
class ProvisionRequest:
    """``target``: the URI of the target without secrets. ``attempt``: None makes or resumes one.

    ``residency``: what the product asks of the place where the key lives.
    """

    device_serial: str
    target: str
    attempt: str | None = None
    residency: Residency = "any"
    proves_only: bool = False
    """Prove a verified device again or refuse it (``device.not_verified``); nothing is made or written."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A cloud let the device in. ``at``: when it had said so (UTC)."""

    admission: Admission
    at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """One step began or ended. ``ms`` is None at its beginning; ``code`` names the error of a failed step."""

    attempt: str | None
    device_serial: str
    step: str
    status: Literal["start", "ok", "failed"]
    ms: float | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A device that may be shipped. ``receipt`` is None for ``already``: the one on record stands."""

    device_serial: str
    attempt: str
    outcome: Literal["pass", "already"]
    steps: tuple[tuple[str, float], ...]
    ms: float
    """From the first look at the device to the last line in the journal."""
    cert_serial: str
    cert_sha256: str
    evidence: Literal["signature", "digest", "jwt"]
    handshake: Handshake | None
    receipt: bytes | None
    admitted: Admitted | None = None
    link_repeats: int | None = None
    """How many repeats a noisy link cost; None where the target has no link that counts them."""

    @property
    def device_ms(self) -> float:
        """The device's share: what was waited for it, its link and its processor."""
        return round(sum(ms for name, ms in self.steps if name in DEVICE_STEPS), 3)

    @property
    def engine_ms(self) -> float:
        """The engine's share: everything else, the ledger, the journal, the source and the checks."""
        return round(self.ms - self.device_ms, 3)


def new_attempt(entropy: Entropy) -> str:
    """Return a random UUID (RFC 9562, version 4)."""
    octets = bytearray(entropy(16))
    octets[6], octets[8] = octets[6] & 0x0F | 0x40, octets[8] & 0x3F | 0x80
    text = octets.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
