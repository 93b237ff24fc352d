"""The addresses of the agent and what answers them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from birthmark import __version__
from birthmark.errors import Refused
from birthmark.model.ids import parse_device_serial
from birthmark.shell.agent.guard import COOKIE, Guard, Need
from birthmark.shell.agent.messages import DeviceShown, HeadsShown, Healthy, PageLink, RunAsked, RunShown
from birthmark.shell.agent.page import PAGE, PAGE_HEADERS
from birthmark.shell.agent.runs import Runs
from birthmark.shell.api.answers import json_response
from birthmark.shell.api.service import read_body
from birthmark.shell.line.readiness import Readiness, readiness_of
from birthmark.shell.line.session import Line

__all__ = ["ROUTES", "Agent", "AgentOffer"]

_MAX_OCTETS = 4096
_MAX_WAIT_S = 60.0
_MAX_WATCHERS = 32
_BEAT_S = 5.0
_LOOK_S = 0.1
_COUNT_S = 2.0
_KEY = re.compile(r'^"?([\x21\x23-\x7e]{8,200})"?\Z')
_asked = msgspec.json.Decoder(RunAsked)


@dataclass(slots=True)
class Agent:
    """The parts of a running agent. ``address``: as it is printed and as browsers know it."""

    line: Line
    runs: Runs
    guard: Guard
    address: str
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    identities_left: int | None = None

    def readiness(self) -> Readiness:
        """Say how long the station can go on, and remember it for the page."""
        shown = readiness_of(self.line.workspace, self.line.station, self.line.failure)
        self.identities_left = None if shown.mode == "online" else shown.offline_identities
        return shown

    def heads(self) -> HeadsShown:
        """Return what the page shows."""
        failure = self.line.failure
        stopped = None if failure is None else f"{failure.message} → {failure.hint}"
        return self.runs.board.show(identities_left=self.identities_left, stopped=stopped)


@dataclass(frozen=True, slots=True)
class AgentOffer:
    """One route. ``answer``: a message struct or a media type; ``errors``: HTTP statuses beside those of the guard."""

    method: str
    path: str
    summary: str
    need: Need
    handler: Callable[[Agent, Request], Awaitable[Response]]
    answer: type[msgspec.Struct] | str
    asks: type[msgspec.Struct] | None = None
    parameters: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()


async def post_run(agent: Agent, request: Request) -> Response:
    """Begin a run, or show the one that this key began."""
    keys = request.headers.getlist("idempotency-key")
    found = _KEY.match(keys[0]) if len(keys) == 1 else None
    if found is None:
        raise Refused(
            "agent.key",
            "a run needs one Idempotency-Key of 8 to 200 visible characters",
            hint="Send a key that your test executive makes once for each try, and repeats when it repeats.",
        )
    wait = _wait(request)
    try:
        asked = _asked.decode(await read_body(request, _MAX_OCTETS))
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise Refused(
            "service.request.malformed",
            f"the body is no request for a run: {str(problem)[:200]}",
            hint="Send JSON as /openapi.json describes it.",
        ) from None
    parse_device_serial(asked.device_serial)
    shown = await asyncio.to_thread(agent.runs.post, found[1], asked)
    if wait and shown.state == "running":
        shown = await _waited(agent, shown.id, wait)
    response = json_response(shown, 202 if shown.state == "running" else 200)
    response.headers["location"] = f"/v1/runs/{shown.id}"
    return response


async def show_run(agent: Agent, request: Request) -> Response:
    """Show a run, at once or when it ends."""
    return json_response(await _waited(agent, request.path_params["run"][:64], _wait(request)))


async def show_heads(agent: Agent, request: Request) -> Response:
    """Show all heads and the count."""
    return json_response(agent.heads())


async def show_serial(agent: Agent, request: Request) -> Response:
    """Show one device on record."""
    device_serial = parse_device_serial(request.path_params["device_serial"])
    return json_response(await asyncio.to_thread(_device, agent, device_serial))


async def healthz(agent: Agent, request: Request) -> Response:
    """Answer."""
    return json_response(Healthy(status="ok", version=__version__))


async def readyz(agent: Agent, request: Request) -> Response:
    """Say how many identities and how much time are left."""
    shown = await asyncio.to_thread(agent.readiness)
    return json_response(shown, 200 if shown.ready else 503)


async def new_link(agent: Agent, request: Request) -> Response:
    """Make an address that opens the page in one browser."""
    return json_response(PageLink(url=f"{agent.address}/open?code={agent.guard.new_code()}"))


async def open_page(agent: Agent, request: Request) -> Response:
    """Let this browser in, by a cookie that scripts cannot read and other sites cannot send."""
    session = agent.guard.new_session(request.query_params.get("code", "")[:200])
    response = Response(status_code=303, headers={"location": "/", "cache-control": "no-store"})
    response.set_cookie(COOKIE, session, max_age=12 * 3600, httponly=True, samesite="strict", path="/")
    return response


async def page(agent: Agent, request: Request) -> Response:
    """Return the page."""
    return Response(PAGE, 200, PAGE_HEADERS, "text/html; charset=utf-8")


async def stream(agent: Agent, request: Request) -> Response:
    """Tell of every change of a head, as server-sent events."""
    if agent.watchers >= _MAX_WATCHERS:
        raise Refused("agent.watchers", "too many pages are open", hint="Close a page of the heads somewhere.")
    return StreamingResponse(_events(agent), 200, {"cache-control": "no-store"}, "text/event-stream")


async def _events(agent: Agent) -> AsyncIterator[bytes]:
    agent.watchers += 1
    try:
        loop = asyncio.get_running_loop()
        counted = float("-inf")
        while not agent.closing.is_set():
            if loop.time() - counted > _COUNT_S:
                await asyncio.to_thread(agent.readiness)
                counted = loop.time()
            seen, until = agent.runs.board.version, loop.time() + _BEAT_S
            yield b"event: heads\ndata: " + msgspec.json.encode(agent.heads()) + b"\n\n"
            while agent.runs.board.version == seen and loop.time() < until and not agent.closing.is_set():
                await asyncio.sleep(_LOOK_S)
    finally:
        agent.watchers -= 1


async def _waited(agent: Agent, run: str, wait: float) -> RunShown:
    """Wait in slices, so that an agent that is told to end does not wait for those who wait."""
    loop = asyncio.get_running_loop()
    end = loop.time() + wait
    while True:
        shown = await asyncio.to_thread(agent.runs.show, run)
        if shown.state != "running" or loop.time() >= end or agent.closing.is_set():
            return shown
        await asyncio.sleep(0.02)


def _wait(request: Request) -> float:
    text = request.query_params.get("wait", "0")
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII):
        raise Refused("agent.wait", "wait is no number of seconds", hint="Use a whole number up to 60.")
    return min(float(text), _MAX_WAIT_S)


def _device(agent: Agent, device_serial: str) -> DeviceShown:
    from hashlib import sha256

    from birthmark.workflow.handout import known_device

    device = known_device(agent.line.workspace.records, device_serial)
    has = device.issued_seq is not None
    return DeviceShown(
        device_serial=device.device_serial,
        order=device.order,
        state=str(device.state),
        attempt=device.attempt,
        cert_sha256=sha256(agent.line.certificate(device_serial)).hexdigest() if has else None,
        under_way=agent.line.under_way(device_serial),
    )


ROUTES: tuple[AgentOffer, ...] = (
    AgentOffer("POST", "/v1/runs", "Begin a run, or show the one that this key began.", "token", post_run, RunShown,
               RunAsked, ("Idempotency-Key", "wait"), (200, 202), (400, 404, 409, 413, 415, 500, 503)),
    AgentOffer("GET", "/v1/runs/{run}", "Show a run, at once or when it ends.", "token", show_run, RunShown,
               None, ("wait",), (200,), (400, 404)),
    AgentOffer("GET", "/v1/serials/{device_serial}", "Show one device on record.", "token", show_serial, DeviceShown,
               errors=(400, 404, 500)),
    AgentOffer("GET", "/v1/heads", "Show all heads, the yield and the rate.", "look", show_heads, HeadsShown),
    AgentOffer("GET", "/v1/events", "Tell of every change of a head (server-sent events).", "look", stream,
               "text/event-stream", errors=(409,)),
    AgentOffer("POST", "/v1/page-links", "Make a link that opens the page of the heads once.", "token", new_link,
               PageLink),
    AgentOffer("GET", "/healthz", "Say that the agent answers.", "nothing", healthz, Healthy),
    AgentOffer("GET", "/readyz", "Say how many identities and how much time are left.", "look", readyz, Readiness,
               statuses=(200, 503)),
)  # fmt: skip
"""What the description tells of; the page and the description itself are beside it."""
