"""The messages between a station and a vendor's program, format ``birthmark-exec/1`` (docs/formats/exec-target.md).

Unknown members and unknown types of message are skipped: either side may be newer.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

__all__ = [
    "EXEC_VERSIONS",
    "Act",
    "Asked",
    "Failed",
    "Hello",
    "Installed",
    "KeyMade",
    "Known",
    "Leave",
    "Probed",
    "Proved",
    "Welcome",
]

EXEC_VERSIONS: Final = (1,)

_Text = Annotated[str, msgspec.Meta(max_length=1024)]
_Der = Annotated[bytes, msgspec.Meta(max_length=64 * 1024)]
_Chain = Annotated[tuple[_Der, ...], msgspec.Meta(max_length=8)]


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The first line of the station: which versions it speaks. ``secret``: what the target's ``secret`` refers to."""

    format: str = "birthmark-exec"
    versions: tuple[int, ...] = EXEC_VERSIONS
    station_software: str
    secret: bytes | None = None


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first line of the program: the version it chose, and what it is."""

    version: int
    program: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag="request", omit_defaults=True):
    """The one request of a run. Octets are standard base64; times are seconds from now."""

    do: Literal["probe", "make_key", "install", "prove"]
    token: str
    remaining_s: float
    device_serial: str | None = None
    algorithm: str | None = None
    certificate: bytes | None = None
    chain: tuple[bytes, ...] | None = None
    private_key: bytes | None = None
    challenge: bytes | None = None
    message: bytes | None = None


class Leave(msgspec.Struct, frozen=True, kw_only=True, tag="leave"):
    """The station's answer to ``act``: whether the act may happen. After a no the program is ended."""

    granted: bool
    remaining_s: float


class Act(msgspec.Struct, frozen=True, kw_only=True, tag="act"):
    """The program is about to change the device, and waits for leave."""

    what: _Text = ""


class Probed(msgspec.Struct, frozen=True, kw_only=True, tag="probed"):
    """The answer to ``probe``."""

    identity: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    makes_key: bool
    can_sign: bool
    certificate: _Der | None = None


class KeyMade(msgspec.Struct, frozen=True, kw_only=True, tag="key_made"):
    """The answer to ``make_key``: a request (PKCS#10, DER)."""

    csr: _Der


class Installed(msgspec.Struct, frozen=True, kw_only=True, tag="installed"):
    """The answer to ``install``: everything is in the device for good."""


class Proved(msgspec.Struct, frozen=True, kw_only=True, tag="proved"):
    """The answer to ``prove``: what stands in the device, and its signature over ``message`` or its key's digest."""

    certificate: _Der
    chain: _Chain = ()
    signature: Annotated[bytes, msgspec.Meta(max_length=8192)] | None = None
    key_digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)] | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """The program could not do it. ``who``: who must act; ``code``: its own dotted name for what happened."""

    who: Literal["device", "station", "later", "request"]
    code: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*\Z", max_length=80)]
    message: _Text = ""


Known = Hello | Act | Probed | KeyMade | Installed | Proved | Failed
