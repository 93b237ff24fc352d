"""As much of MQTT 3.1.1 (OASIS, 2014) as shows that a broker lets a device in: connect, subscribe once, leave."""

from __future__ import annotations

import struct
from collections.abc import Callable

from birthmark.ports.admission import TlsStream

__all__ = ["CONNACK_NAMES", "connect", "disconnect", "subscribe"]

_CONNECT, _CONNACK, _SUBSCRIBE, _SUBACK, _DISCONNECT = 0x10, 0x20, 0x82, 0x90, 0xE0
_CLEAN_SESSION = 0x02
_KEEP_ALIVE_S = 60
_PACKET_ID = 1
CONNACK_NAMES = {
    1: "protocol version refused",
    2: "client identifier refused",
    3: "not available",
    4: "bad user name or password",
    5: "not authorized",
}
"""Section 3.2.2.3."""


def connect(stream: TlsStream, client_id: str, left: Callable[[], float]) -> int:
    """Send CONNECT and return the code of the CONNACK, 0 if the broker lets us in.

    ``ConnectionError``: it ended the connection, or what came is no CONNACK; ``left``: seconds that are left.
    """
    body = b"\x00\x04MQTT\x04" + struct.pack(">BH", _CLEAN_SESSION, _KEEP_ALIVE_S) + _text(client_id)
    stream.send(_packet(_CONNECT, body), left())
    answer = _read(stream, _CONNACK, left)
    if len(answer) != 2 or answer[0] > 1:
        raise ConnectionAbortedError("this is not MQTT")
    return answer[1]


def subscribe(stream: TlsStream, topic: str, left: Callable[[], float]) -> bool:
    """Subscribe to ``topic`` and say whether the broker granted it. Errors as of ``connect``."""
    stream.send(_packet(_SUBSCRIBE, struct.pack(">H", _PACKET_ID) + _text(topic) + b"\x00"), left())
    answer = _read(stream, _SUBACK, left)
    if len(answer) != 3 or answer[:2] != struct.pack(">H", _PACKET_ID):
        raise ConnectionAbortedError("this is not MQTT")
    return answer[2] in (0, 1, 2)


def disconnect(stream: TlsStream, seconds: float) -> None:
    """Leave politely: no last will, no session is left behind."""
    stream.send(_packet(_DISCONNECT, b""), seconds)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _packet(kind: int, body: bytes) -> bytes:
    length, octets = len(body), bytearray()
    while True:
        octets.append(length % 128 | (0x80 if length > 127 else 0))
        length //= 128
        if not length:
            return bytes([kind]) + bytes(octets) + body


def _read(stream: TlsStream, kind: int, left: Callable[[], float]) -> bytes:
    """Return the body of the next packet, which has to be of this kind and shorter than 128 octets."""
    head = _exactly(stream, 2, left)
    if head[0] != kind or head[1] > 127:
        raise ConnectionAbortedError("this is not MQTT")
    return _exactly(stream, head[1], left)


def _exactly(stream: TlsStream, octets: int, left: Callable[[], float]) -> bytes:
    data = b""
    while len(data) < octets:
        part = stream.receive(octets - len(data), left())
        if not part:
            raise ConnectionResetError("the broker ended the connection")
        data += part
    return data
