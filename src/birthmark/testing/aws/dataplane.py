"""Where devices connect: MQTT over TLS with client certificates, with and without ALPN, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import RLock
from typing import Any

from OpenSSL import SSL

from birthmark.testing.aws.admission import Admission
from birthmark.testing.aws.broker import Broker
from birthmark.testing.aws.fleet import Fleet
from birthmark.testing.aws.registry import Registry
from birthmark.testing.dps.certs import ServerIdentity
from birthmark.testing.dps.tls import TlsStream, accepting, server_context

__all__ = ["DataPlane"]

_ALPN = b"x-amzn-mqtt-ca"
_MOST_CONNECTIONS = 500


class DataPlane:
    """``ports``: without ALPN, as 8883 of the service; with ALPN, as its 443. 0 takes a free one."""

    def __init__(
        self,
        host: str,
        ports: Sequence[int],
        hosts: Sequence[str],
        registry: Callable[[], Registry],
        lock: RLock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ports = tuple(ports)
        self._host = host
        self._identity = ServerIdentity(hosts, "AWS IoT")
        self.root_pem = self._identity.root_pem
        admission = Admission(registry, lock, hosts, self._publish_soon)
        self._broker = Broker(admission, Fleet(registry, lock, monotonic), registry, lock)
        self._open: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen; what keeps it from listening is ``OSError``."""
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), daemon=True)
        self._thread.start()
        started.result(timeout=10)

    def stop(self) -> None:
        """Close every connection."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)

    def _publish_soon(self, topic: str, payload: bytes) -> None:
        """Publish after whoever holds the records has let go of them."""
        self._loop.call_soon_threadsafe(self._broker.publish, topic, payload)

    async def _run(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        servers: list[asyncio.Server] = []
        try:
            for port, alpn in zip(self.ports, (False, True), strict=True):
                servers.append(await asyncio.start_server(self._connected(alpn), self._host, port))
        except (OSError, OverflowError) as problem:  # OverflowError: no such port
            for server in servers:
                server.close()
            started.set_exception(problem)
            return
        self.ports = tuple(server.sockets[0].getsockname()[1] for server in servers)
        started.set_result(None)
        await self._stop.wait()
        for server in servers:
            server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _connected(self, alpn: bool) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        context = server_context(self._identity)
        if alpn:
            context.set_alpn_select_callback(_select)

        async def serve(stream: TlsStream) -> None:
            if not alpn or stream.protocol == _ALPN:
                await self._broker.serve(stream)

        return accepting(context, serve, self._open, _MOST_CONNECTIONS)


def _select(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    return _ALPN if _ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
