"""MQTT control packets: read from a stream with bounds, taken apart, put together (OASIS MQTT 3.1.1, section 2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

__all__ = ["Closed", "Fields", "PacketReader", "packet"]

_MAX_PACKET = 262_144


class Closed(Exception):
    """The client left or broke the protocol."""


class PacketReader:
    """``read`` returns some octets, or none at the end."""

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        self._read, self._held = read, bytearray()

    async def _take(self, count: int) -> bytes:
        while len(self._held) < count:
            data = await self._read()
            if not data:
                raise Closed
            self._held += data
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def packet(self) -> tuple[int, bytes]:
        """Return the first octet of the next packet and what follows its length; one too long is ``Closed``."""
        head = (await self._take(1))[0]
        length = shift = 0
        while True:
            octet = (await self._take(1))[0]
            length |= (octet & 0x7F) << shift
            shift += 7
            if not octet & 0x80:
                break
            if shift > 21:
                raise Closed
        if length > _MAX_PACKET:
            raise Closed
        return head, await self._take(length)


class Fields:
    """Takes a packet apart; what is missing is ``Closed``."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def octets(self, count: int) -> bytes:
        """Return the next octets."""
        taken, self._data = self._data[:count], self._data[count:]
        if len(taken) != count:
            raise Closed
        return taken

    def number(self) -> int:
        """Return the next two octets as a number."""
        return int.from_bytes(self.octets(2), "big")

    def text(self) -> str:
        """Return the next text (UTF-8, its length before it)."""
        try:
            return self.octets(self.number()).decode()
        except UnicodeDecodeError:
            raise Closed from None

    def properties(self) -> bytes:
        """Return the properties that come next (OASIS MQTT 5.0, section 2.2.2), their length before them."""
        length = shift = 0
        while True:
            octet = self.octets(1)[0]
            length |= (octet & 0x7F) << shift
            shift += 7
            if not octet & 0x80:
                return self.octets(length)
            if shift > 21:
                raise Closed

    def rest(self) -> bytes:
        """Return what is left."""
        return self._data


def packet(head: int, body: bytes) -> bytes:
    """Return a packet: first octet, length, body."""
    length, octets = len(body), bytearray([head])
    while True:
        length, low = divmod(length, 128)
        octets.append(low | (0x80 if length else 0))
        if not length:
            return bytes(octets) + body
