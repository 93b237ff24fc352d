"""What all handlers share, and the two ways in: for callers in certain roles, and for everybody."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from birthmark.errors import BirthmarkError, Refused
from birthmark.model.siteevents import Role
from birthmark.shell.api.answers import error_response
from birthmark.shell.api.batcher import Batcher
from birthmark.shell.api.callers import Caller, Callers
from birthmark.shell.api.observing import Metrics, RequestLog
from birthmark.shell.workspace.wiring import Workspace
from birthmark.wire.service import MAX_REQUEST_OCTETS, ReportOutcomeName
from birthmark.wire.vault import VaultRecipient

__all__ = [
    "ANYBODY",
    "Asker",
    "Endpoint",
    "Handler",
    "IngestReport",
    "Offer",
    "Service",
    "Tell",
    "TookReport",
    "read_body",
    "require_plain",
]

ANYBODY: frozenset[Role] = frozenset()
"""No certificate is asked for."""


@dataclass(frozen=True, slots=True)
class TookReport:
    """What became of a report. ``size``: entries of the site's log that are verified now."""

    outcome: ReportOutcomeName
    size: int
    settled: int
    findings: int
    acknowledgement: bytes


IngestReport = Callable[[str, Path], TookReport]
"""Takes in a report file that must be of this site; ``Refused("service.other_site")`` if it is of another."""


@dataclass(slots=True)
class Service:
    """The parts of a running service."""

    workspace: Workspace
    callers: Callers
    batcher: Batcher
    log: RequestLog
    metrics: Metrics
    public_log: bool
    ingest: IngestReport
    recipients: dict[str, VaultRecipient] = field(default_factory=dict)
    reporting: set[str] = field(default_factory=set)
    """Sites a report of which is on its way or being checked."""


Handler = Callable[[Service, Request, Caller | None], Awaitable[Response]]
Tell = Callable[[msgspec.Struct | BirthmarkError], None]
Asker = Callable[[Service, Caller | None, bytes, Tell], None]
"""Takes a whole body and tells later, on the event loop and once, what came of it; never tells what it raises."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One route. ``path``: Starlette's pattern; ``answer``: a message struct, or the media types of a file."""

    method: str
    path: str
    summary: str
    roles: frozenset[Role]
    handler: Handler
    answer: type[msgspec.Struct] | tuple[str, ...]
    asks: type[msgspec.Struct] | str | None = None
    errors: tuple[int, ...] = ()
    fresh: bool = True
    """Whether the caller is looked up for each request; not where the workflow does it."""
    ask: Asker | None = None
    """Does the same as ``handler``, for requests that come the short way (``direct.py``)."""


class _Incoming:
    """What a request brings. An answer before the whole body has come ends the connection, under the next request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_whole = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        return message

    async def rest(self, limit: int) -> bool:
        """Read on what nobody keeps, at most ``limit`` octets and as long as a request may take; say whether that was
        all of it."""
        octets = 0
        while not self._is_whole and octets <= limit:
            octets += len((await self()).get("body", b""))
        return self._is_whole


class Endpoint:
    """An ASGI application for one route: who may call it, what handles it, and the record of it."""

    def __init__(self, service: Service, offer: Offer) -> None:
        self._service = service
        self._method = offer.method
        self._route = offer.path
        self._roles = offer.roles
        self._handler = offer.handler
        self._asker = offer.ask
        self._fresh = offer.fresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. A defect becomes a 500 that says nothing of itself."""
        began = time.perf_counter()
        body = _Incoming(receive)
        request = Request(scope, body)
        caller: Caller | None = None
        code: str | None = None
        try:
            caller = self.caller(scope)
            self.require(caller)
            response = await self._handler(self._service, request, caller)
        except BirthmarkError as error:
            code = error.code
            response = error_response(error)
            if not await body.rest(MAX_REQUEST_OCTETS):
                # The rest is not waited for: whoever sends it has to know that this connection ends.
                response.headers["connection"] = "close"
        except ClientDisconnect:
            return
        self.note(response.status_code, began, caller, code)
        await response(scope, receive, send)

    def caller(self, scope: Mapping[str, Any]) -> Caller | None:
        """Return who calls. Also where anybody may: a header that only the proxy may send is refused everywhere."""
        return self._service.callers.of(scope, fresh=self._fresh)

    def ask(self, caller: Caller | None, body: bytes, tell: Tell) -> None:
        """Hand a whole body to the route's ``ask``."""
        if self._asker is None:
            raise ValueError("this route has no short way")
        self._asker(self._service, caller, body, tell)

    def note(self, status: int, began: float, caller: Caller | None, code: str | None) -> None:
        """Count a request and put it into the log; ``began``: ``perf_counter`` at its start."""
        seconds = time.perf_counter() - began
        self._service.metrics.count(self._route, status, seconds, code)
        name = None if caller is None else caller.name
        self._service.log.request(self._method, self._route, status, round(seconds * 1000, 3), name, code)

    def require(self, caller: Caller | None) -> None:
        """Return if this caller may call this route, else refuse: ``service.access.missing``, ``service.role``."""
        if not self._roles:
            return
        if caller is None:
            raise Refused(
                "service.access.missing",
                "this needs a client certificate",
                hint="Connect with the TLS client certificate that the authority made for you.",
            )
        if caller.role not in self._roles:
            raise Refused(
                "service.role",
                f"{caller.name} is let in as {caller.role}; this is for others",
                hint="Use the certificate of somebody in one of the roles that may do this.",
                role=caller.role,
                allowed=sorted(self._roles),
            )


async def read_body(request: Request, limit: int) -> bytes:
    """Return the whole body.

    Raises ``Refused``: ``service.request.too_long`` as soon as it is longer than ``limit``,
    ``service.request.encoding``.
    """
    require_plain(request)
    for name, value in request.scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise _too_long(limit)
    parts: list[bytes] = []
    octets, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        octets += len(part)
        if octets > limit:
            raise _too_long(limit)
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def require_plain(request: Request) -> None:
    """Return if the body is what it is; nothing compressed is ever unpacked (``service.request.encoding``)."""
    encodings = [value for name, value in request.scope["headers"] if name == b"content-encoding"]
    if encodings and encodings != [b"identity"]:
        raise Refused(
            "service.request.encoding",
            "a body that is compressed or encoded is not taken",
            hint="Send the body as it is, without Content-Encoding.",
        )


def _too_long(limit: int) -> Refused:
    return Refused(
        "service.request.too_long",
        f"the body has more than {limit} octets",
        hint="Send one request for one device.",
        limit=limit,
    )
