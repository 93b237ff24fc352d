"""One HTTP/1.1 request over one TLS connection of a device, bounded in time and size (RFC 9112)."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

from birthmark.ports.admission import DeviceTls, TlsServer, TlsStream

__all__ = ["HttpAnswer", "Request", "exchange"]

_MOST_OCTETS = 1 << 17
_PART = 16_384


@dataclass(frozen=True, slots=True)
class Request:
    """``body``: JSON octets, or none for a GET."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """``retry_after``: seconds, 0 where the server names none that can be read."""

    status: int
    body: bytes
    retry_after: int


class _Incoming(io.RawIOBase):
    """What the server sends; ``OSError`` when it is too much or takes too long."""

    def __init__(self, stream: TlsStream, left: Callable[[], float]) -> None:
        self._stream, self._left, self._octets = stream, left, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.receive(min(len(buffer), _PART), self._left())
        self._octets += len(data)
        if self._octets > _MOST_OCTETS:
            raise OSError(f"the answer is longer than {_MOST_OCTETS} octets")
        buffer[: len(data)] = data
        return len(data)


class _Socket:
    """As much of a socket as ``http.client`` reads an answer from."""

    def __init__(self, incoming: _Incoming) -> None:
        self._incoming = incoming

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._incoming)


def exchange(device: DeviceTls, server: TlsServer, request: Request, left: Callable[[], float]) -> HttpAnswer:
    """Send ``request`` as the device and return the answer. ``left``: seconds that this exchange still has.

    ``OSError`` for everything that kept an answer from coming whole.
    """
    stream = device.connect(server, left())
    try:
        stream.send(_octets(server, request), left())
        response = HTTPResponse(cast(Any, _Socket(_Incoming(stream, left))), method=request.method)
        try:
            response.begin()
            body = response.read()
        except (HTTPException, ValueError) as problem:
            raise ConnectionError(f"this is not HTTP: {type(problem).__name__}") from problem
        return HttpAnswer(response.status, body, _seconds(response.getheader("retry-after")))
    finally:
        stream.close()


def _octets(server: TlsServer, request: Request) -> bytes:
    host = server.name if server.port == 443 else f"{server.name}:{server.port}"
    head = (
        f"{request.method} {request.path} HTTP/1.1",
        f"host: {host}",
        "accept: application/json",
        "accept-encoding: identity",
        "user-agent: birthmark",
        "connection: close",
        *(("content-type: application/json; charset=utf-8",) if request.body else ()),
        f"content-length: {len(request.body)}",
    )
    return "".join(f"{line}\r\n" for line in (*head, "")).encode("ascii") + request.body


def _seconds(text: str | None) -> int:
    return min(int(text), 3600) if text is not None and text.isascii() and text.isdecimal() and len(text) < 7 else 0
