"""The Starlette application around a running service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from birthmark.errors import Refused
from birthmark.shell.api.answers import error_response
from birthmark.shell.api.direct import Direct, is_plain
from birthmark.shell.api.routes import ROUTES
from birthmark.shell.api.service import Endpoint, Service

__all__ = ["build_app"]

_FLUSH_S = 0.25


def build_app(open_service: Callable[[], Service], background: Callable[[], AbstractAsyncContextManager[None]]) -> Any:
    """Return the application. ``open_service`` is called on the event loop; ``background`` runs beside the requests."""
    routes: list[Route] = []
    front = _Front()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service = open_service()
        endpoints = [(offer, Endpoint(service, offer)) for offer in ROUTES]
        app.router.routes[:] = [Route(offer.path, endpoint, methods=[offer.method]) for offer, endpoint in endpoints]
        front.known = {(offer.method, offer.path): endpoint for offer, endpoint in endpoints if "{" not in offer.path}
        front.short = {
            (offer.method.encode(), offer.path.encode()): Direct(endpoint)
            for offer, endpoint in endpoints
            if offer.ask is not None
        }
        flushing = asyncio.create_task(_flush(service))
        try:
            async with background():
                yield
        finally:
            flushing.cancel()
            with suppress(asyncio.CancelledError):
                await flushing
            # Whatever was taken is made durable before the process ends.
            await asyncio.to_thread(service.batcher.close)
            service.log.add("stopped")
            service.log.flush()

    front.behind = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _http_error})
    return front


class _Front:
    """Takes requests for addresses without variable parts straight to their endpoint; the router gets the others."""

    behind: Starlette

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Endpoint] = {}
        self.short: dict[tuple[bytes, bytes], Direct] = {}

    def direct(self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Direct | None:
        """Return what answers a request the short way, None for a request that goes the long way."""
        found = self.short.get((method, target))
        return found if found is not None and is_plain(headers) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = self.known.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (self.behind if known is None else known)(scope, receive, send)


async def _flush(service: Service) -> None:
    while True:
        await asyncio.sleep(_FLUSH_S)
        service.log.flush()


async def _http_error(request: Request, problem: Exception) -> Response:
    """Turn what the router says (no such path, no such method) into the error of every skin."""
    if isinstance(problem, HTTPException) and problem.status_code == 405:
        refusal = Refused(
            "service.method", "this address does not take that method", hint="See /openapi.json for what there is."
        )
        response = error_response(refusal)
        response.headers.update(problem.headers or {})
        return response
    return error_response(
        Refused("service.not_found", "there is nothing at this address", hint="See /openapi.json for what there is.")
    )
