"""A wire between a client and the PostgreSQL server that breaks at a COMMIT, before or after the server has it."""

from __future__ import annotations

import selectors
import socket
import threading
from pathlib import Path
from typing import Literal

__all__ = ["BreakingWire"]

_NAME = ".s.PGSQL.5432"
_COMMIT = b"COMMIT\0"


class BreakingWire:
    """Listens in ``directory`` and forwards to the server's socket. ``breaks``: at the next COMMIT, and once."""

    def __init__(self, directory: Path, server: Path) -> None:
        self.breaks: Literal["never", "before", "after"] = "never"
        self._server = str(server / _NAME)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / _NAME))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as ready, client, server:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 16)
                    if source is client and _COMMIT in data and self.breaks != "never":
                        self._break(data, server)
                        return
                    if not data:
                        return
                    key.data.sendall(data)

    def _break(self, data: bytes, server: socket.socket) -> None:
        if self.breaks == "after":
            server.sendall(data)
            server.recv(1 << 16)
        self.breaks = "never"

    def close(self) -> None:
        self._listener.close()
