"""Running the agent: on the loopback or a Unix socket, until SIGTERM; what is under way then can be repeated."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from birthmark.adapters.runstore import RunStore
from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault
from birthmark.shell.agent.guard import Guard, Need, token_of
from birthmark.shell.agent.openapi import openapi_document
from birthmark.shell.agent.routes import ROUTES, Agent, open_page, page
from birthmark.shell.agent.runs import Runs
from birthmark.shell.api.answers import error_response
from birthmark.shell.api.connection import close_slow
from birthmark.shell.api.observing import RequestLog
from birthmark.shell.api.orderly import OrderlyServer, beside, server_config, write_log
from birthmark.shell.line.session import Line

__all__ = ["AgentPlace", "parse_heads", "serve_agent"]

_HOST = "127.0.0.1"
_GRACE_S = 5
_CONNECTIONS = 128
_HEAD = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?", re.ASCII)
Handler = Callable[[Agent, Request], Any]


class AgentPlace:
    """Where an agent listens and what it keeps. ``unix_socket`` None: the loopback, at ``port`` (0: a free one)."""

    def __init__(self, directory: Path, *, port: int, unix_socket: Path | None, new_token: bool) -> None:
        self.token_file = directory / "agent" / "token"
        self.runs_file = directory / "agent" / "runs.db"
        self.port = port
        self.unix_socket = unix_socket
        self.new_token = new_token


def parse_heads(heads: list[str]) -> dict[str, str]:
    """Return name → target URI of ``NAME=URI`` or, for a single head, ``URI``; ``Misconfigured("agent.head")``."""
    found: dict[str, str] = {}
    for text in heads:
        name, equals, uri = text.partition("=")
        if not equals or _HEAD.fullmatch(name) is None:
            name, uri = "1", text
        if name in found or ":" not in uri or "{device_serial}" not in uri:
            raise Misconfigured(
                "agent.head",
                f"{text[:200]!r} is no head",
                hint="Give each head a name of its own: --head left='files:/mnt/left/{device_serial}'.",
                head=text[:200],
            )
        found[name] = uri
    return found


def serve_agent(line: Line, heads: Mapping[str, str], place: AgentPlace, *, ready: Callable[[str, str], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``ready`` gets the address and the link of the page when requests are taken.

    Raises ``Misconfigured("agent.token_file")``, ``StationFault``: ``agent.listen``, ``agent.store``; and what stopped
    the publication of the log.
    """
    workspace = line.workspace
    place.token_file.parent.mkdir(mode=0o700, exist_ok=True)
    token = token_of(place.token_file, new=place.new_token, entropy=workspace.entropy)
    store = RunStore(place.runs_file)
    try:
        with _listening(place) as (listener, address, names):
            runs = Runs(line, store, heads, clock=workspace.clock)
            guard = Guard(token, names=names, entropy=workspace.entropy, monotonic=time.monotonic)
            agent = Agent(line, runs, guard, address)
            log = RequestLog(write_log)
            app = _app(agent, log)
            server = _Server(agent, server_config(app, connections=_CONNECTIONS, grace_s=_GRACE_S))
            app.state.connections = server.server_state.connections
            ready(address, f"{address}/open?code={guard.new_code()}")
            server.run(sockets=[listener])
            line.close()
            runs.settle(_GRACE_S)
            log.flush()
    finally:
        store.close()


@contextmanager
def _listening(place: AgentPlace) -> Iterator[tuple[socket.socket, str, frozenset[str] | None]]:
    """Yield the socket, the address as it is printed and the names that callers may use."""
    try:
        if place.unix_socket is None:
            listener = socket.create_server((_HOST, place.port), backlog=_CONNECTIONS)
        else:
            if place.unix_socket.is_socket():
                place.unix_socket.unlink()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # The umask is the process's own; nobody else's connection is ever taken.
            listener.bind(str(place.unix_socket))
            place.unix_socket.chmod(0o600)
            listener.listen(_CONNECTIONS)
    except OSError as problem:
        raise StationFault(
            "agent.listen",
            f"the agent cannot listen: {problem.strerror or problem}",
            hint="Another program may have the port: stop it, or choose another one with --port.",
            port=place.port,
        ) from problem
    with listener:
        if place.unix_socket is not None:
            yield listener, f"unix:{place.unix_socket}", None
            place.unix_socket.unlink(missing_ok=True)
            return
        port = listener.getsockname()[1]
        yield listener, f"http://{_HOST}:{port}", frozenset({f"{_HOST}:{port}", f"localhost:{port}"})


class _Server(OrderlyServer):
    def __init__(self, agent: Agent, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._agent = agent

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let those who watch and wait go first."""
        self._agent.closing.set()
        await super().shutdown(sockets)


def _app(agent: Agent, log: RequestLog) -> Starlette:
    description = json.dumps(openapi_document(ROUTES)).encode()

    async def describe(agent: Agent, request: Request) -> Response:
        return Response(description, 200, {"cache-control": "no-store"}, "application/json")

    def lifespan(app: Starlette) -> AbstractAsyncContextManager[None]:
        return beside(_flush(log), _close_slow(app))

    more: list[tuple[str, str, Need, Handler]] = [
        ("GET", "/", "look", page),
        ("GET", "/open", "nothing", open_page),
        ("GET", "/openapi.json", "nothing", describe),
    ]
    offered = [(offer.method, offer.path, offer.need, offer.handler) for offer in ROUTES] + more
    routes = [Route(path, _Endpoint(agent, log, path, need, act), methods=[verb]) for verb, path, need, act in offered]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _http_error})


class _Endpoint:
    def __init__(self, agent: Agent, log: RequestLog, path: str, need: Need, handler: Handler) -> None:
        self._agent, self._log, self._path, self._need, self._handler = agent, log, path, need, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began, code = time.perf_counter(), None
        request = Request(scope, receive)
        try:
            self._agent.guard.require(request, self._need)
            response = await self._handler(self._agent, request)
        except BirthmarkError as error:
            code = error.code
            response = error_response(error)
        except ClientDisconnect:
            return
        ms = round((time.perf_counter() - began) * 1000, 3)
        # The pattern of the path, never the path or the query: a link of the page is a secret until it is used.
        self._log.add(
            "request", method=scope["method"], route=self._path, status=response.status_code, ms=ms, code=code
        )
        await response(scope, receive, send)


async def _http_error(request: Request, problem: Exception) -> Response:
    """Turn what the router says (no such path, no such method) into the error of every skin."""
    known = isinstance(problem, HTTPException) and problem.status_code == 405
    code, text = ("service.method", "this address does not take that method") if known else _NOT_FOUND
    return error_response(Refused(code, text, hint="See /openapi.json for what there is."))


_NOT_FOUND = ("service.not_found", "there is nothing at this address")


async def _flush(log: RequestLog) -> None:
    while True:
        await asyncio.sleep(0.25)
        log.flush()


async def _close_slow(app: Starlette) -> None:
    await close_slow(app.state.connections)
