"""Admission: a device shows itself to a cloud with the key it will live with, before the box is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from birthmark.ports.line import Fence

__all__ = ["Admission", "Admits", "DeviceTls", "Door", "KeyHolder", "TlsServer", "TlsStream"]

KeyHolder = Literal["device", "station"]
"""Whose key made the connection: the one in the device, or the copy that the station held until it was installed."""


@dataclass(frozen=True, slots=True)
class TlsServer:
    """Where to connect. ``name``: what its certificate must say and the server name that is sent (SNI).

    ``trust``: path of a PEM file with the CAs that may speak for it; "" for those of the operating system.
    """

    host: str
    port: int
    name: str
    trust: str = ""
    alpn: tuple[str, ...] = ()


class TlsStream(Protocol):
    """One TLS connection. ``receive`` returns at most ``most`` octets, none at the end.

    Both wait at most ``seconds`` and raise ``OSError`` (``TimeoutError``, ``ConnectionError``) for everything that
    ends a connection, a refusal by the server included. ``close`` may be called twice.
    """

    def send(self, data: bytes, seconds: float) -> None: ...

    def receive(self, most: int, seconds: float) -> bytes: ...

    def close(self) -> None: ...


class DeviceTls(Protocol):
    """The right to make TLS connections as one device; its key stays where it is.

    ``certificates`` are what it shows (DER), its own first. ``connect`` waits at most ``seconds``; ``OSError`` where no
    connection comes about, ``DeviceFault("handshake.credential")`` where key and certificate cannot be used,
    ``StationFault("handshake.untrusted")`` where the server is not the one that ``server`` names,
    ``Misconfigured("handshake.trust")`` where ``trust`` cannot be read.
    """

    @property
    def held_by(self) -> KeyHolder: ...

    def certificates(self) -> Sequence[bytes]: ...

    def connect(self, server: TlsServer, seconds: float) -> TlsStream: ...


@dataclass(frozen=True, slots=True)
class Admission:
    """A cloud let a device in. ``service``: kind of the cloud; ``host`` and ``scope``: where the device knocked.

    ``assigned_to``: where it belongs from now on; ``device_name``: its name there; ``cert_sha256`` (hex): of the
    certificate it showed; ``held_by``: whose key it showed it with. ``detail`` is for a person.
    """

    service: str
    host: str
    scope: str
    assigned_to: str
    device_name: str
    cert_sha256: str
    held_by: KeyHolder
    detail: str = ""


class Door(Protocol):
    """Where a cloud lets devices in. Threads may call it at once, each for another device.

    ``admit`` connects for real, as the device, and returns once the cloud has let it in; again is the same again. It
    waits no longer than ``fence.remaining()`` in all. ``Refused("cloud.admit.*")``: the cloud answered, and the answer
    is no; the fact ``answer`` is its own code. ``Unavailable("cloud.admit.*")``: it gave no answer in time. Nothing of
    what the cloud says is believed beyond bounds of size and printable text.
    """

    def admit(self, device: DeviceTls, fence: Fence) -> Admission: ...


@runtime_checkable
class Admits(Protocol):
    """What the class of a ``Cloud`` can do besides, where a device that it knows can be let in from here.

    ``door`` takes the same URI as the cloud and opens no secret: a station needs no right at the cloud's service side.
    Relative files are below ``base``. It sends nothing; ``Misconfigured`` where the URI does not say enough.
    """

    def door(self, uri: str, *, base: str) -> Door: ...
