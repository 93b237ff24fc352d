"""A load of ready-made HTTP requests over kept TLS connections: as little work a request as can be."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import uvloop

__all__ = ["LoadResult", "run_load"]

_OK = b"HTTP/1.1 200 "
_LENGTH = b"content-length: "


@dataclass(slots=True)
class LoadResult:
    """``times``: seconds of every request; ``failures``: first octets of every answer that is no 200."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)

    def quantile_ms(self, share: float) -> float:
        """Return the duration that ``share`` of the requests did not exceed, in milliseconds."""
        ordered = sorted(self.times)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2)


class _Client(asyncio.Protocol):
    """One connection; sends the next request when the answer to the last one is whole."""

    def __init__(self, waiting: deque[tuple[float | None, bytes]], result: LoadResult, *, ends: bool) -> None:
        self._waiting = waiting
        self._result = result
        self._ends = ends
        self._answer = b""
        self._began: float | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @property
    def is_idle(self) -> bool:
        return self._began is None

    def send(self) -> None:
        """Send the next request; ``done`` when there is none."""
        if not self._waiting:
            if self._ends and not self.done.done():
                self.done.set_result(None)
            return
        due, data = self._waiting.popleft()
        self._began = time.perf_counter() if due is None else due
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.index(_LENGTH) + len(_LENGTH)
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return
        if self._began is None:
            raise RuntimeError("an answer that nobody asked for")
        self._result.times.append(time.perf_counter() - self._began)
        if not head.startswith(_OK):
            self._result.failures.append(self._answer[:600])
        self._answer, self._began = b"", None
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the service closed the connection"))


def run_load(
    port: int, tls: ssl.SSLContext, requests: Sequence[bytes], *, clients: int, rate: float | None = None
) -> LoadResult:
    """Send all ``requests`` over ``clients`` connections as fast as they are answered, or ``rate`` a second.

    With a rate, the time of a request counts from the moment when it was due, also if no connection was free.
    """
    return uvloop.run(_load(port, tls, requests, clients, rate))


async def _load(
    port: int, tls: ssl.SSLContext, requests: Sequence[bytes], clients: int, rate: float | None
) -> LoadResult:
    loop = asyncio.get_running_loop()
    result = LoadResult()
    waiting: deque[tuple[float | None, bytes]] = deque()
    partial(_Client, waiting, result, ends=rate is None)
    connected = [
        (await loop.create_connection(lambda: _Client(waiting, result, ends=rate is None), "127.0.0.1", port, ssl=tls))[
            1
        ]
        for _ in range(clients)
    ]
    began = time.perf_counter()
    if rate is None:
        waiting.extend((None, request) for request in requests)
        for client in connected:
            client.send()
        await asyncio.gather(*(client.done for client in connected))
    else:
        await _paced(waiting, connected, requests, rate)
        while len(result.times) < len(requests):
            await asyncio.sleep(0.001)
    result.seconds = time.perf_counter() - began
    for client in connected:
        client.done.cancel()
        client.transport.close()
    return result


async def _paced(
    waiting: deque[tuple[float | None, bytes]], connected: Sequence[_Client], requests: Sequence[bytes], rate: float
) -> None:
    began = time.perf_counter()
    for number, request in enumerate(requests):
        due = began + number / rate
        while (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left if left > 0.001 else 0)
        waiting.append((due, request))
        for client in connected:
            if client.is_idle:
                client.send()
                break
