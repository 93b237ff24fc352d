"""The message broker that devices meet: MQTT 3.1.1 and 5 with wildcards and QoS 0 and 1, held to the device's policies.

Sources: OASIS MQTT 3.1.1 and 5.0; AWS IoT developer guide, "MQTT". No retained messages, no sessions that outlive their
connection, no second delivery; properties of MQTT 5 are passed over. What a policy forbids closes the connection, as
the service does.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from threading import RLock

from birthmark.testing.aws.admission import Admission
from birthmark.testing.aws.fleet import Fleet
from birthmark.testing.aws.policy import Permits
from birthmark.testing.aws.registry import Certificate, Registry
from birthmark.testing.dps.tls import TlsStream
from birthmark.testing.mqtt.packets import Closed, Fields, PacketReader, packet

__all__ = ["Broker", "topic_matches"]

_CONNECT_S = 10.0
_WAITING = 1_000
_FILTERS = 50
_BAD_VERSION = 1
_LIMITS = bytes([0x24, 1, 0x25, 0, 0x28, 1, 0x29, 0, 0x2A, 0])
"""Properties of CONNACK: QoS 1 at most; wildcards, but nothing retained, no identifiers, nothing shared."""


class _Client:
    """One connection. Messages wait in a queue, so that a slow reader holds nobody up."""

    def __init__(self, stream: TlsStream, client_id: str, permits: Permits, *, five: bool) -> None:
        self.stream, self.client_id, self.permits, self.five = stream, client_id, permits, five
        self.filters: dict[str, int] = {}
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
        self.will: tuple[str, bytes] | None = None
        self._number = 0

    def offer(self, octets: bytes) -> None:
        """Queue a packet; a client that does not read is cut off."""
        try:
            self.queue.put_nowait(octets)
        except asyncio.QueueFull:
            self.stream.cut()

    def message(self, topic: str, payload: bytes, qos: int) -> None:
        """Queue a message."""
        name = topic.encode()
        head = len(name).to_bytes(2, "big") + name
        if qos:
            self._number = self._number % 65_535 + 1
            head += self._number.to_bytes(2, "big")
        self.offer(packet(0x30 | qos << 1, head + (b"\0" if self.five else b"") + payload))

    async def send(self) -> None:
        """Write what is queued, until the client is gone."""
        with suppress(OSError):  # whoever reads from it notices as well
            while True:
                await self.stream.write(await self.queue.get())


class Broker:
    """Everything of it runs in one event loop."""

    def __init__(self, admission: Admission, fleet: Fleet, registry: Callable[[], Registry], lock: RLock) -> None:
        self._admission, self._fleet, self._registry, self._lock = admission, fleet, registry, lock
        self._clients: dict[str, _Client] = {}

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        """Hand a message to everybody who listens."""
        for client in list(self._clients.values()):
            granted = [held for pattern, held in client.filters.items() if topic_matches(pattern, topic)]
            if granted and self._may(client, "Receive", "topic", topic):
                client.message(topic, payload, min(qos, max(granted)))

    def _may(self, client: _Client, action: str, kind: str, name: str) -> bool:
        with self._lock:
            return client.permits.allow(action, kind, name)

    async def serve(self, stream: TlsStream) -> None:
        """Serve one connection until its end."""
        certificate = self._admission.judge(stream.chain, stream.server_name)
        if certificate is None:
            return
        client: _Client | None = None
        reader = PacketReader(stream.read)
        sender: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                head, body = await reader.packet()
                client, idle = await self._connect(stream, certificate, head, body)
            sender = asyncio.create_task(client.send())
            while True:
                async with asyncio.timeout(idle):
                    head, body = await reader.packet()
                if not self._admission.active(certificate):
                    return
                if head >> 4 == 14:
                    if body[:1] != b"\x04":  # MQTT 5: "disconnect with will message"
                        client.will = None
                    return
                self._handle(client, head, Fields(body))
        except Closed:
            return
        finally:
            if sender is not None:
                sender.cancel()
            if client is not None:
                self._leave(client)

    def _leave(self, client: _Client) -> None:
        if self._clients.get(client.client_id) is client:
            del self._clients[client.client_id]
        if client.will is not None and self._may(client, "Publish", "topic", client.will[0]):
            self.publish(*client.will)

    async def _connect(
        self, stream: TlsStream, certificate: Certificate, head: int, body: bytes
    ) -> tuple[_Client, float | None]:
        fields = Fields(body)
        if head != 0x10 or fields.text() != "MQTT":
            raise Closed
        level, flags, keep_alive = fields.octets(1)[0], fields.octets(1)[0], fields.number()
        if level not in (4, 5):
            await stream.write(packet(0x20, bytes([0, _BAD_VERSION])))
            raise Closed
        five = level == 5
        if five:
            fields.properties()
        given = fields.text()
        name = given or uuid.uuid4().hex
        with self._lock:
            permits = Permits(self._registry(), certificate.arn, name, certificate.claim)
            allowed = permits.allow("Connect", "client", name)
        if not allowed or len(name) > 128 or flags & 0x01:
            raise Closed
        client = _Client(stream, name, permits, five=five)
        if flags & 0x04:
            if five:
                fields.properties()
            client.will = fields.text(), fields.octets(fields.number())
        await stream.write(packet(0x20, b"\0\0" + (_connack(name if not given else "") if five else b"")))
        old = self._clients.pop(name, None)
        if old is not None:  # the later connection of a client id goes before the earlier one
            old.stream.cut()
        self._clients[name] = client
        return client, keep_alive * 1.5 or None

    def _handle(self, client: _Client, head: int, fields: Fields) -> None:
        kind = head >> 4
        if kind == 3:
            self._published(client, head, fields)
        elif kind == 8:
            self._subscribe(client, fields)
        elif kind == 10:
            self._unsubscribe(client, fields)
        elif kind == 12:
            client.offer(packet(0xD0, b""))
        elif kind != 4:
            raise Closed

    def _unsubscribe(self, client: _Client, fields: Fields) -> None:
        identifier, done = fields.octets(2), bytearray()
        if client.five:
            fields.properties()
        while fields.rest():
            done.append(0x00 if client.filters.pop(fields.text(), None) is not None else 0x11)
        client.offer(packet(0xB0, identifier + (b"\0" + done if client.five else b"")))

    def _subscribe(self, client: _Client, fields: Fields) -> None:
        identifier, granted = fields.octets(2), bytearray()
        if client.five:
            fields.properties()
        while fields.rest():
            pattern, qos = fields.text(), fields.octets(1)[0] & 3
            if len(client.filters) >= _FILTERS or not _valid(pattern):
                raise Closed
            if self._may(client, "Subscribe", "topicfilter", pattern):
                client.filters[pattern] = min(qos, 1)
                granted.append(min(qos, 1))
            else:
                granted.append(0x87 if client.five else 0x80)
        client.offer(packet(0x90, identifier + (b"\0" if client.five else b"") + granted))

    def _published(self, client: _Client, head: int, fields: Fields) -> None:
        topic, qos = fields.text(), head >> 1 & 3
        if qos > 1 or not topic or "+" in topic or "#" in topic or len(topic) > 512:
            raise Closed
        identifier = fields.octets(2) if qos else b""
        if client.five:
            fields.properties()
        if not self._may(client, "Publish", "topic", topic):
            raise Closed
        if qos:
            client.offer(packet(0x40, identifier))
        answer = self._fleet.answer(topic, fields.rest())
        if answer is None:
            self.publish(topic, fields.rest(), qos)
        elif any(topic_matches(pattern, answer[0]) for pattern in client.filters):
            client.message(*answer, qos=0)


def _connack(assigned: str) -> bytes:
    """Return the properties of CONNACK in MQTT 5; ``assigned``: the client id if the client named none."""
    name = assigned.encode()
    found = _LIMITS + (b"\x12" + len(name).to_bytes(2, "big") + name if assigned else b"")
    return bytes([len(found)]) + found


def _valid(pattern: str) -> bool:
    levels = pattern.split("/")
    return (
        bool(pattern)
        and all(one in ("+", "#") or not ("+" in one or "#" in one) for one in levels)
        and "#" not in levels[:-1]
    )


def topic_matches(pattern: str, topic: str) -> bool:
    """Say whether a topic filter is for a topic; a wildcard at its beginning is not for ``$`` topics."""
    wanted, levels = pattern.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for number, one in enumerate(wanted):
        if one == "#":
            return True
        if number >= len(levels) or one not in ("+", levels[number]):
            return False
    return len(wanted) == len(levels)
