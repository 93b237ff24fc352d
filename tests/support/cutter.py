"""A TCP proxy that cuts its next connection after so many octets, and lets all later ones through."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

__all__ = ["Cutter"]


class Cutter:
    """Listens at ``port`` and speaks to ``backend`` (a port of this machine), which may change.

    ``cut(up=N)`` cuts when N octets went to the service, ``cut(down=N)`` when N octets came from it; then the rest of
    that connection is lost in both directions, as by a pulled cable that resets.
    """

    def __init__(self, backend: int) -> None:
        self.backend = backend
        self.seen = {"up": 0, "down": 0}
        self.cuts = 0
        self._limits: dict[str, int] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self, *, up: int | None = None, down: int | None = None) -> None:
        """Arm the proxy for the next connection, and end the ones that are open."""
        with self._lock:
            self._limits = {name: octets for name, octets in (("up", up), ("down", down)) if octets is not None}
            self.seen = {"up": 0, "down": 0}
            for connection in list(self._open):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.backend))
            except OSError:
                client.close()
                continue
            with self._lock:
                limits, self._limits = self._limits, {}
                self._open |= {client, server}
            left = [2]
            for name, source, target in (("up", client, server), ("down", server, client)):
                arguments = (name, source, target, limits.get(name), left)
                thread = threading.Thread(target=self._pump, args=arguments, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(
        self, name: str, source: socket.socket, target: socket.socket, limit: int | None, left: list[int]
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536 if limit is None else max(1, min(65536, limit))):
                if limit is not None:
                    limit -= len(data)
                self.seen[name] += len(data)
                target.sendall(data)
                if limit == 0:
                    self.cuts += 1
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            left[0] -= 1
            if left[0] == 0:
                self._open -= {source, target}
                source.close()
                target.close()
