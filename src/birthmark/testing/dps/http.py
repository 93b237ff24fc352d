"""HTTP/1.1 over one TLS connection, with bounds: h11 reads, a function answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from birthmark.testing.dps.answers import Answer, Problem
from birthmark.testing.dps.tls import TlsStream
from birthmark.testing.dps.websocket import PATH, WebSocketStream, upgrade_headers

__all__ = ["Request", "serve_http"]

_MAX_BODY = 1_048_576
_REQUEST_S = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``path``: its segments, unescaped; ``headers``: in lower case."""

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    chain: tuple[bytes, ...]


async def serve_http(
    stream: TlsStream,
    answer: Callable[[Request], Awaitable[Answer | None]],
    websocket: Callable[[TlsStream], Awaitable[None]] | None = None,
) -> None:
    """Answer requests until the client leaves; None for an answer cuts the connection.

    ``websocket`` takes over a connection that asks for MQTT over a WebSocket.
    """
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=65_536)
    try:
        while True:
            async with asyncio.timeout(_REQUEST_S):
                request = await _read(stream, http)
            if request is None:
                return
            if request.path == PATH and websocket is not None:
                switch = h11.InformationalResponse(status_code=101, headers=upgrade_headers(request.headers))
                await stream.write(http.send(switch) or b"")
                await websocket(WebSocketStream(stream, http.trailing_data[0]))
                return
            found = await answer(request)
            if found is None:
                stream.cut()
                return
            await stream.write(_octets(http, found))
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()
    except Problem as problem:
        await stream.write(_octets(http, problem.answer()))
    except h11.RemoteProtocolError:
        if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await stream.write(_octets(http, Problem(400001, "This is not HTTP.").answer()))


def _octets(http: h11.Connection, answer: Answer) -> bytes:
    body = answer.octets()
    headers = {**answer.headers, "content-length": str(len(body))}
    if body:
        headers["content-type"] = "application/json; charset=utf-8"
    head = h11.Response(status_code=answer.status, headers=list(headers.items()))
    return b"".join(
        http.send(event) or b"" for event in (head, *([h11.Data(data=body)] if body else []), h11.EndOfMessage())
    )


async def _read(stream: TlsStream, http: h11.Connection) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                await stream.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            http.receive_data(await stream.read())
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_BODY:
                raise Problem(413001, "The body is too large.")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body), stream.chain)
        else:
            return None


def _request(head: h11.Request, body: bytes, chain: tuple[bytes, ...]) -> Request:
    try:
        address = urlsplit(head.target.decode("ascii"))
        query = {name: values[0] for name, values in parse_qs(address.query, max_num_fields=32).items()}
    except ValueError:
        raise Problem(400001, "The address cannot be read.") from None
    path = tuple(unquote(part) for part in address.path.strip("/").split("/"))
    headers = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), path, query, headers, body, chain)
