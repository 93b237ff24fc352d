"""What the agent and its callers say to each other; the OpenAPI description is made from these structs."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from birthmark.wire.service import ErrorShown, SerialText

__all__ = [
    "DeviceShown",
    "HeadShown",
    "HeadsShown",
    "Healthy",
    "PageLink",
    "ResultShown",
    "RunAsked",
    "RunShown",
    "StepShown",
]

RunState = Literal["running", "passed", "failed", "undecided"]
HeadName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$", max_length=48)]


class RunAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/runs``. ``head``: where the device sits; may be left out where there is one head only."""

    device_serial: SerialText
    head: HeadName | None = None
    handshake: bool = False


class StepShown(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the engine (docs/station.md); ``error`` names the code of a failed one."""

    step: str
    status: Literal["start", "ok", "failed"]
    ms: float | None = None
    error: str | None = None


class ResultShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a device that passed has. ``already``: it had its identity and proved it again."""

    outcome: Literal["pass", "already"]
    cert_serial: str
    cert_sha256: str
    evidence: Literal["signature", "digest", "jwt"]
    tls_version: str | None
    ms: float


class RunShown(msgspec.Struct, frozen=True, kw_only=True):
    """One run. ``passed`` and ``failed`` stand for ever; ``undecided`` means: send the same request again.

    ``error`` says why a run is failed or undecided; it is null where the agent itself was cut.
    """

    id: str
    state: RunState
    device_serial: str
    head: str
    handshake: bool
    attempt: str
    created: str
    steps: tuple[StepShown, ...] = ()
    result: ResultShown | None = None
    error: ErrorShown | None = None


class HeadShown(msgspec.Struct, frozen=True, kw_only=True):
    """One head as it stands now. ``since``: when it came to this state, RFC 3339."""

    head: str
    state: Literal["empty", "running", "passed", "failed", "undecided"]
    since: str
    device_serial: str | None = None
    step: str | None = None
    ms: float | None = None
    error: ErrorShown | None = None


class HeadsShown(msgspec.Struct, frozen=True, kw_only=True):
    """All heads, and the count since the agent began. ``rate``: devices an hour, over the last hour at most."""

    station: str
    began: str
    heads: tuple[HeadShown, ...]
    passed: int
    failed: int
    rate: float
    identities_left: int | None
    stopped: str | None
    """What has stopped the line; null if nothing has."""


class DeviceShown(msgspec.Struct, frozen=True, kw_only=True):
    """One device on record. ``under_way``: its attempt that this station has begun and not ended."""

    device_serial: str
    order: str
    state: str
    attempt: str | None
    cert_sha256: str | None
    under_way: str | None


class Healthy(msgspec.Struct, frozen=True, kw_only=True):
    """The agent answers."""

    status: Literal["ok"]
    version: str


class PageLink(msgspec.Struct, frozen=True, kw_only=True):
    """An address that opens the page of the heads in one browser, once, within ten minutes."""

    url: str
