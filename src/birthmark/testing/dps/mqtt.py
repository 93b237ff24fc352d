"""The part of MQTT 3.1.1 that devices need to register: CONNECT, SUBSCRIBE, PUBLISH (QoS 0, 1), PINGREQ, DISCONNECT.

OASIS MQTT 3.1.1 for the packets; topics as in Azure's "DPS MQTT support". Everything else closes the connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs

from birthmark.testing.dps.answers import Answer, Problem
from birthmark.testing.dps.tls import TlsStream
from birthmark.testing.mqtt.packets import Closed, Fields, PacketReader, packet

__all__ = ["MqttCall", "serve_mqtt"]

_CONNECT_S = 10.0
_SUBSCRIPTION = "$dps/registrations/res/#"
_USERNAME = re.compile(r"([^/]{1,64})/registrations/([^/]{1,128})/(api-version=[^/]{1,512})")
_REGISTER = "$dps/registrations/PUT/iotdps-register/"
_STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/"
_BAD_VERSION, _BAD_ID, _BAD_USER, _REFUSED = 1, 2, 4, 5


@dataclass(frozen=True, slots=True)
class MqttCall:
    """A request of a device. ``operation_id`` is None for a registration."""

    id_scope: str
    registration_id: str
    api_version: str
    operation_id: str | None
    body: bytes
    chain: tuple[bytes, ...]
    token: str = ""


async def serve_mqtt(stream: TlsStream, call: Callable[[MqttCall], Awaitable[Answer | None]]) -> None:
    """Serve one device until it leaves; None for an answer cuts the connection."""
    reader = PacketReader(stream.read)
    try:
        async with asyncio.timeout(_CONNECT_S):
            head, body = await reader.packet()
            device, idle = await _connect(stream, head, body)
        while True:
            async with asyncio.timeout(idle):
                head, body = await reader.packet()
            await _handle(stream, device, head, Fields(body), call)
    except Closed:
        return


async def _connect(stream: TlsStream, head: int, body: bytes) -> tuple[MqttCall, float | None]:
    fields = Fields(body)
    if head != 0x10 or fields.text() != "MQTT":
        raise Closed
    level, flags, keep_alive = fields.octets(1)[0], fields.octets(1)[0], fields.number()
    client = fields.text()
    if flags & 0x05:  # a will, or the reserved bit: no device that registers needs either
        raise Closed
    match = _USERNAME.fullmatch(fields.text()) if flags & 0x80 else None
    token = fields.text() if flags & 0x40 else ""
    code = 0
    if level != 4:
        code = _BAD_VERSION
    elif match is None:
        code = _BAD_USER
    elif client != match[2]:
        code = _BAD_ID
    elif not stream.chain and not token:
        code = _REFUSED
    await stream.write(packet(0x20, bytes([0, code])))
    if code or match is None:
        raise Closed
    version = parse_qs(match[3]).get("api-version", [""])[0]
    return MqttCall(match[1], match[2], version, None, b"", stream.chain, token), keep_alive * 1.5 or None


async def _handle(
    stream: TlsStream,
    device: MqttCall,
    head: int,
    fields: Fields,
    call: Callable[[MqttCall], Awaitable[Answer | None]],
) -> None:
    kind = head >> 4
    if kind == 3:
        await _published(stream, device, head, fields, call)
    elif kind == 8:
        identifier, granted = fields.octets(2), bytearray()
        while fields.rest() and len(granted) < 8:
            topic, qos = fields.text(), fields.octets(1)[0]
            granted.append(min(qos, 1) if topic == _SUBSCRIPTION else 0x80)
        await stream.write(packet(0x90, identifier + granted))
    elif kind == 10:
        await stream.write(packet(0xB0, fields.octets(2)))
    elif kind == 12:
        await stream.write(packet(0xD0, b""))
    elif kind != 4:  # PUBACK asks for nothing; DISCONNECT and all else end it
        raise Closed


async def _published(
    stream: TlsStream,
    device: MqttCall,
    head: int,
    fields: Fields,
    call: Callable[[MqttCall], Awaitable[Answer | None]],
) -> None:
    topic, qos = fields.text(), head >> 1 & 3
    if qos > 1:
        raise Closed
    if qos:
        await stream.write(packet(0x40, fields.octets(2)))
    place, _, query = topic.partition("?")
    asked = parse_qs(query, max_num_fields=8) if len(query) <= 1024 else {}
    rid, operation = asked.get("$rid", [""])[0], asked.get("operationId", [""])[0]
    if not rid or place not in (_REGISTER, _STATUS):
        raise Closed
    wanted = MqttCall(
        device.id_scope,
        device.registration_id,
        device.api_version,
        operation if place == _STATUS else None,
        fields.rest(),
        device.chain,
        device.token,
    )
    try:
        answer = await call(wanted)
    except Problem as problem:
        answer = problem.answer()
    if answer is None:
        stream.cut()
        raise Closed
    wait = answer.headers.get("retry-after")
    name = f"$dps/registrations/res/{answer.status}/?$rid={rid}" + (f"&retry-after={wait}" if wait else "")
    encoded = name.encode()
    await stream.write(packet(0x30, len(encoded).to_bytes(2, "big") + encoded + answer.octets()))
