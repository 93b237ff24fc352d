"""MQTT over WebSockets (RFC 6455): the answer to the upgrade, and a stream whose octets travel in binary frames."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from hashlib import sha1

from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.tls import TlsStream

__all__ = ["PATH", "WebSocketStream", "upgrade_headers"]

PATH = ("$iothub", "websocket")
"""Where devices ask for it."""

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_FRAME = 262_144
_MAX_CONTROL = 125
_CONTINUED, _BINARY, _CLOSE, _PING, _PONG = 0, 2, 8, 9, 10


def upgrade_headers(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the headers of the answer 101, or raise ``Problem`` 400018 for what is no upgrade to MQTT (RFC 6455)."""
    key = headers.get("sec-websocket-key", "")
    protocols = [one.strip() for one in headers.get("sec-websocket-protocol", "").split(",")]
    try:
        good = len(base64.b64decode(key, validate=True)) == 16
    except (ValueError, binascii.Error):
        good = False
    asked = headers.get("upgrade", "").lower() == "websocket" and headers.get("sec-websocket-version") == "13"
    if not (good and asked and "mqtt" in protocols):
        raise Problem(400018, "This is no upgrade to MQTT over a WebSocket.")
    accept = base64.b64encode(sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()).decode()
    return [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept),
        ("Sec-WebSocket-Protocol", "mqtt"),
    ]


class WebSocketStream(TlsStream):
    """What was a ``TlsStream``, after the upgrade. ``held``: octets that came with the request."""

    def __init__(self, stream: TlsStream, held: bytes) -> None:
        self._stream, self._held = stream, bytearray(held)
        self.chain = stream.chain

    async def read(self) -> bytes:
        """Return what the next frame with something in it holds; empty at the end, also for what is no frame."""
        while True:
            kind, plain = await self._frame()
            if kind == _PING:
                await self._send(_PONG, plain)
            elif kind in (_CONTINUED, _BINARY) and plain:
                return plain
            elif kind not in (_CONTINUED, _BINARY, _PONG):
                if kind == _CLOSE:
                    await self._send(_CLOSE, plain[:2])
                return b""

    async def _frame(self) -> tuple[int, bytes]:
        """Return kind and content of the next frame; -1 at the end and for what a client may not send (RFC 6455, 5)."""
        head = await self._take(2)
        if len(head) != 2 or head[0] & 0x70 or not head[1] & 0x80:
            return -1, b""
        kind, size = head[0] & 0x0F, head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(await self._take(2 if size == 126 else 8), "big")
        if size > (_MAX_CONTROL if kind >= _CLOSE else _MAX_FRAME):
            return -1, b""
        mask, data = await self._take(4), await self._take(size)
        if len(mask) != 4 or len(data) != size:
            return -1, b""
        return kind, _masked(data, mask)

    async def write(self, data: bytes) -> None:
        """Send ``data`` as one frame."""
        await self._send(_BINARY, data)

    def close(self) -> None:
        """Say goodbye and close."""
        self._stream.close()

    def cut(self) -> None:
        """Drop the connection as a broken network would."""
        self._stream.cut()

    async def _send(self, kind: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            length = bytes([size])
        else:
            length = b"\x7e" + size.to_bytes(2, "big") if size < 65_536 else b"\x7f" + size.to_bytes(8, "big")
        await self._stream.write(bytes([0x80 | kind]) + length + data)

    async def _take(self, count: int) -> bytes:
        """Return ``count`` octets, or fewer at the end."""
        while len(self._held) < count:
            data = await self._stream.read()
            if not data:
                break
            self._held += data
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken


def _masked(data: bytes, mask: bytes) -> bytes:
    stream = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")
