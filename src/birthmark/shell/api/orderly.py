"""A server that ends in order: what service, agent and witness want alike of uvicorn."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn

from birthmark.shell.api.connection import Connection

__all__ = ["OrderlyServer", "beside", "server_config", "write_log"]


def server_config(app: Any, *, connections: int, grace_s: int, **listening: Any) -> uvicorn.Config:
    """Return the settings of a server of ours: our connections, nothing said of itself, no header believed.

    ``connections``: at once; ``grace_s``: how long what was begun may take after the signal to end; ``listening``:
    where and with what TLS, as uvicorn names it.
    """
    return uvicorn.Config(
        app,
        http=Connection,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=grace_s,
        **listening,
    )


class OrderlyServer(uvicorn.Server):
    """Ends at SIGTERM and SIGINT, and lets the process go on: the log is shown after it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle both signals while the server runs; the handlers of before come back, and nothing is raised again."""
        if threading.current_thread() is not threading.main_thread():
            yield  # a program that has this server in a thread keeps its signals
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless work while the server runs, and end it with the server."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def write_log(data: bytes) -> None:
    """Write lines of a request log to stderr at once."""
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
