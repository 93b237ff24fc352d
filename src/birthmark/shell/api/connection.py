"""One connection: who is at its other end, how long it may take, how much it may say before it is understood.

No ASGI server hands the client's certificate to the application; this subclass of uvicorn's protocol reads it when the
TLS handshake is done and puts it into the scope of every request. And a request that the application answers the short
way (``direct.py``) is handed to it when it is whole, without a task.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from birthmark.shell.api.answers import whole_answer

__all__ = ["HEADER_OCTETS", "PEER", "Connection", "anonymous_share", "close_slow"]

PEER = "birthmark.peer"
"""Scope member: certificate (DER) of the TLS client; None without one; absent from a Unix socket."""
HEADER_OCTETS = 32 * 1024
"""Room for request line and headers; one of them may be a forwarded certificate."""
MESSAGE_S = 15.0
"""A request arrives within this time from its first octet, or goes without an answer."""
LONG_S, LONG_IDLE_S = 3600.0, 15.0
"""A report may take this long in all, and this long without a sign of life."""
STALL_S = 60.0
"""An answer is read on within this time, or the connection is closed."""
_LONG_PATH = b"/v1/reports"


class _Short:
    """A request on the short way: what uvicorn's protocol looks at of a cycle."""

    __slots__ = ("body", "disconnected", "keep_alive", "message_event", "more_body", "response_complete")

    def __init__(self, keep_alive: bool) -> None:
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = keep_alive
        self.response_complete = self.disconnected = False
        self.message_event = _NOBODY_WAITS


class _NobodyWaits:
    def set(self) -> None:
        """Wake nobody."""


_NOBODY_WAITS = _NobodyWaits()


class Connection(HttpToolsProtocol):
    """Adds the peer to the scope, and a deadline and a bound to everything that is received."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._peer: bytes | None = None
        self._is_tls = False
        self._in_head = False
        self._head_octets = 0
        self._long_until: float | None = None
        self._offer: Any = getattr(self.config.app, "direct", None)
        """What says who answers a request the short way; None where the application offers none."""
        self._direct: Any = None
        """What answers the request whose body is arriving, if that goes the short way."""
        self.deadline: float | None = None
        self.unread: tuple[int, float] = (0, 0.0)
        """Octets of answers that wait for the client, and since when there are no fewer."""

    @property
    def is_stranger(self) -> bool:
        """Whether this client came over TLS and showed no certificate."""
        return self._is_tls and self._peer is None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        session = transport.get_extra_info("ssl_object")
        self._is_tls = session is not None
        self._peer = None if session is None else session.getpeercert(True)
        self.deadline = self.loop.time() + MESSAGE_S
        if self._is_tls and self._peer is None and self._strangers() > anonymous_share(self.limit_concurrency):
            transport.abort()

    def _strangers(self) -> int:
        """Return how many clients without a certificate are connected."""
        return sum(isinstance(other, Connection) and other.is_stranger for other in self.connections)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            # The parser keeps whatever comes until a header ends; nothing else bounds that.
            self._head_octets += len(data)
            if self._head_octets > HEADER_OCTETS:
                self.transport.write(_TOO_LONG)
                self.transport.close()
        elif self._long_until is not None:
            self.deadline = min(self._long_until, self.loop.time() + LONG_IDLE_S)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_octets = True, 0
        self.deadline = self.loop.time() + MESSAGE_S
        if self._is_tls:
            self.scope[PEER] = self._peer  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._direct = self._short_way()
        if self._direct is not None:
            self.cycle = _Short(self.parser.should_keep_alive())  # type: ignore[assignment]
            return
        super().on_headers_complete()
        if self.url.startswith(_LONG_PATH):
            self._long_until = self.loop.time() + LONG_S

    def on_message_complete(self) -> None:
        self.deadline = self._long_until = None
        super().on_message_complete()
        if self._direct is not None:
            direct, self._direct, cycle = self._direct, None, cast("_Short", self.cycle)
            direct(self.scope, bytes(cycle.body), partial(self._respond, cycle))

    def _short_way(self) -> Any:
        """Return what answers the request whose headers are read, None if that goes the long way."""
        if self._offer is None:
            return None
        if (self.cycle is not None and not self.cycle.response_complete) or self.flow.write_paused:
            # Requests that came before are answered before, and only the long way waits for who reads no answers.
            return None
        room = self.limit_concurrency
        if room is not None and (len(self.connections) >= room or len(self.tasks) >= room):
            return None
        if self.parser.get_http_version() != "1.1" or self.parser.should_upgrade():
            return None
        return self._offer(self.parser.get_method(), self.url, self.headers)

    def _respond(self, cycle: _Short, response: Response) -> None:
        if cycle.disconnected:
            return
        cycle.response_complete = True
        self.transport.write(whole_answer(response, self.server_state.default_headers, close=not cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is not None and self.cycle.more_body:
            # Answered before everything was read: the rest is of no use.
            self.transport.close()


def anonymous_share(connections: int | None) -> int:
    """Return how many of ``connections`` clients without a certificate may hold: the rest is left to stations."""
    return 1 << 16 if connections is None else max(1, connections // 4)


async def close_slow(connections: set[Any], *, every_s: float = 1.0) -> None:
    """Close connections whose deadline is over, and those whose client does not read its answers, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every_s)
        now = loop.time()
        for connection in list(connections):
            late = connection.deadline is not None and connection.deadline < now
            if late or _is_stalled(connection, now):
                connection.transport.abort()


def _is_stalled(connection: Connection, now: float) -> bool:
    waiting = connection.transport.get_write_buffer_size()
    before, since = connection.unread
    if waiting == 0 or waiting < before or before == 0:
        connection.unread = (waiting, now)
        return False
    return now - since > STALL_S


_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
