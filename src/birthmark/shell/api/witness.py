"""The witness as a service: ``POST /add-checkpoint`` of c2sp.org/tlog-witness, over plain HTTP (a proxy does TLS)."""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from birthmark.errors import BirthmarkError, StationFault, Unavailable
from birthmark.shell.api.connection import close_slow
from birthmark.shell.api.orderly import OrderlyServer, beside, server_config
from birthmark.wire.addcheckpoint import parse_add_checkpoint

if TYPE_CHECKING:
    from starlette.requests import Request

    from birthmark.workflow.log.witness import Witness

__all__ = ["bind", "serve_witness", "witness_application"]

_LARGEST = 64 * 1024
_MOST_CONNECTIONS = 256
_GRACE_S, _KEEP_ALIVE_S = 5, 30
_STATUS = {
    "witness.log.unknown": 404,
    "witness.log.signature": 403,
    "witness.conflict": 409,
    "witness.fork": 409,
    "log.proof.consistency": 422,
    "witness.head.missing": 500,
    "witness.head.other": 500,
}
"""Everything else that is wrong with a request is 400."""


def witness_application(witness: Witness) -> Starlette:
    """Return the service of a witness."""

    async def add_checkpoint(request: Request) -> Response:
        body = b""
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > _LARGEST:
                    return PlainTextResponse("the request is too long\n", 413)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        try:
            line = await run_in_threadpool(lambda: witness.add_checkpoint(parse_add_checkpoint(body)))
        except BirthmarkError as problem:
            return _refusal(problem)
        return PlainTextResponse(line)

    return Starlette(routes=[Route("/add-checkpoint", add_checkpoint, methods=["POST"])], lifespan=_closing_slow)


def _refusal(problem: BirthmarkError) -> Response:
    if problem.code == "witness.conflict":
        return Response(f"{problem.facts['size']}\n", 409, media_type="text/x.tlog.size")
    fallback = 503 if isinstance(problem, Unavailable) else 500 if isinstance(problem, StationFault) else 400
    return PlainTextResponse(f"{problem}\n", _STATUS.get(problem.code, fallback))


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. ``StationFault("witness.bind")``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)  # from now on callers wait rather than being turned away
    except OSError as problem:
        bound.close()
        raise StationFault(
            "witness.bind",
            f"cannot listen on {host} port {port}: {problem.strerror or problem}",
            hint="Choose another --port, or end the program that has it.",
            host=host,
            port=port,
        ) from problem
    return bound


def serve_witness(witness: Witness, bound: socket.socket) -> None:
    """Serve until the process is told to end; requests that are under way are answered.

    Who holds connections and says nothing, or says it slowly, keeps no log from its witness for long.
    """
    app = witness_application(witness)
    server = OrderlyServer(
        server_config(app, connections=_MOST_CONNECTIONS, grace_s=_GRACE_S, timeout_keep_alive=_KEEP_ALIVE_S)
    )
    app.state.connections = server.server_state.connections
    server.run(sockets=[bound])


def _closing_slow(app: Starlette) -> AbstractAsyncContextManager[None]:
    return beside(close_slow(app.state.connections))
