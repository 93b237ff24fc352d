"""The emulator as one object: made-up server CA, HTTPS and MQTT listeners on a thread of their own."""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any
from urllib.parse import quote

from birthmark.testing.dps.answers import Answer, Problem, json_object
from birthmark.testing.dps.certs import ServerIdentity
from birthmark.testing.dps.device import DeviceApi, Shown
from birthmark.testing.dps.faults import FaultPlan, Faults
from birthmark.testing.dps.http import Request, serve_http
from birthmark.testing.dps.hub import hub_problem
from birthmark.testing.dps.hubs import EmulatedHub
from birthmark.testing.dps.issuance import DeviceRegistry
from birthmark.testing.dps.limits import DpsLimits, Gate
from birthmark.testing.dps.management import ManagementApi, ServiceFacts
from birthmark.testing.dps.mqtt import MqttCall, serve_mqtt
from birthmark.testing.dps.records import Enrollments, Registrations
from birthmark.testing.dps.service import ServiceApi, check_token
from birthmark.testing.dps.sphere import CatalogsApi
from birthmark.testing.dps.store import Store
from birthmark.testing.dps.tls import TlsStream, accepting, server_context

__all__ = ["EmulatedDps"]

_MOST_CONNECTIONS = 500


class EmulatedDps:
    """A Device Provisioning Service in this process; a context manager.

    Port 0 takes a free one; ``mqtt_port`` is 8883 by default since Microsoft's clients know no other. ``hosts`` are
    the names in the server's certificate; clients trust ``root_pem``.
    ``verified_chains``: False lets devices of a group in by its certificate alone, which Azure never does.
    ``credential_policies``: name → days of the certificates that the device registry issues.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        https_port: int = 0,
        mqtt_port: int = 8883,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        id_scope: str = "0ne00000000",
        hubs: Sequence[str] = ("hub.azure-devices.net",),
        assigning_s: float = 1.0,
        limits: DpsLimits | None = None,
        faults: FaultPlan | None = None,
        credential_policies: Mapping[str, int] | None = None,
        verified_chains: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or DpsLimits()
        self.host, self.https_port, self.mqtt_port, self.id_scope = host, https_port, mqtt_port, id_scope
        self.policy, self.key = "provisioningserviceowner", base64.b64encode(os.urandom(32)).decode()
        self.management_token = os.urandom(24).hex()
        self._identity = ServerIdentity(sorted({host, *hosts}))
        self.root_pem = self._identity.root_pem
        store = Store(
            limits.enrollments,
            limits.groups,
            limits.certificates,
            limits.registrations,
            verified_chains=verified_chains,
            hubs=hubs,
        )
        self.faults = Faults(faults or FaultPlan())
        self._gate = Gate(limits, monotonic)
        self.registry = DeviceRegistry({"default": 30} if credential_policies is None else credential_policies)
        self._device = DeviceApi(store, self._gate, id_scope, assigning_s, monotonic, self.registry)
        self._service = ServiceApi(store, self.faults, tuple(hubs))
        self._management = ManagementApi(
            store, ServiceFacts(id_scope, self.policy, self.key, tuple(hubs), self._address)
        )
        self.sphere = CatalogsApi()
        self.enrollments = Enrollments(
            "individual", store.individual, self._run_inside, tuple(hubs), store.certificates
        )
        self.groups = Enrollments("group", store.groups, self._run_inside, tuple(hubs), store.certificates)
        self.registrations = Registrations(store.registrations, self._run_inside)
        self.hubs = {name: EmulatedHub(hub, self._run_inside, self._address) for name, hub in store.hubs.items()}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def connection_string(self) -> str:
        """What service clients are given."""
        return f"HostName={self._address()};SharedAccessKeyName={self.policy};SharedAccessKey={self.key}"

    def _address(self) -> str:
        return f"{self.host}:{self.https_port}"

    def sas_token(self, seconds: int = 3600) -> str:
        """Return a SAS token for the service API."""
        audience, expiry = quote(f"{self.host}:{self.https_port}", safe=""), int(time.time()) + seconds
        signature = hmac.digest(base64.b64decode(self.key), f"{audience}\n{expiry}".encode(), "sha256")
        sig = quote(base64.b64encode(signature).decode(), safe="")
        return f"SharedAccessSignature sr={audience}&sig={sig}&se={expiry}&skn={self.policy}"

    def __enter__(self) -> EmulatedDps:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), daemon=True)
        self._thread.start()
        started.result(timeout=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
        self._loop = None

    def _run_inside(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` in the thread that answers, between two answers, and return what it returns."""
        if self._loop is None:
            return work()
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as problem:  # noqa: BLE001  it belongs to the thread that waits for it
                done.set_exception(problem)

        self._loop.call_soon_threadsafe(run)
        return done.result(timeout=60)

    async def _run(self, started: Future[None]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        servers: list[asyncio.Server] = []
        try:
            for serve, port in ((self._https, self.https_port), (self._mqtt, self.mqtt_port)):
                servers.append(await asyncio.start_server(self._connected(serve), self.host, port))
        except OSError as problem:
            for server in servers:
                server.close()
            started.set_exception(problem)
            return
        self.https_port, self.mqtt_port = (server.sockets[0].getsockname()[1] for server in servers)
        started.set_result(None)
        await self._stop.wait()
        for server in servers:
            server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _connected(
        self, serve: Callable[[TlsStream], Awaitable[None]]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        return accepting(server_context(self._identity), serve, self._open, _MOST_CONNECTIONS)

    async def _https(self, stream: TlsStream) -> None:
        await serve_http(
            stream,
            lambda request: self._faulty(lambda: self._route(request), request.path[0] == "_emulator"),
            self._mqtt,
        )

    async def _mqtt(self, stream: TlsStream) -> None:
        await serve_mqtt(stream, lambda call: self._faulty(lambda: self._register(call), False))

    async def _faulty(self, work: Callable[[], Answer], control: bool) -> Answer | None:
        """Do the work with the faults that are due; None means that the answer gets lost."""
        try:
            if not control:
                await asyncio.sleep(self.faults.plan.latency_s)
                self.faults.throttle()
            answer = work()
        except Problem as problem:
            answer = problem.answer()
        except ValueError:
            answer = Problem(400001, "The request cannot be read.").answer()
        return None if not control and self.faults.loses_answer() else answer

    def _register(self, call: MqttCall) -> Answer:
        self._device.check(call.id_scope, call.api_version)
        shown = Shown(call.chain, call.token)
        if call.operation_id is None:
            return self._device.register(call.registration_id, shown, call.body, call.api_version)
        return self._device.operation(call.registration_id, call.operation_id, shown)

    def _route(self, request: Request) -> Answer:
        path = request.path
        match request.method, path:
            case "PUT", ("_emulator", "faults"):
                self._bearer(request)
                self.faults.configure(json_object(request.body))
                return Answer(204)
            case _, ("subscriptions", *_):
                self._bearer(request)
                if path[5:6] == ("Microsoft.AzureSphere",):
                    return self.sphere.answer(request)
                self._gate.operation()
                return self._management.answer(request)
            case _, ("enrollments" | "enrollmentGroups" | "registrations", *_):
                host = f"{self.host}:{self.https_port}"
                check_token(
                    request.headers.get("authorization", ""), host, self.policy, base64.b64decode(self.key), time.time()
                )
                self._gate.operation()
                return self._service.answer(request)
            case _, ("devices" | "statistics", *_):
                return self._hub(request)
            case method, (scope, "registrations", registration_id, *rest):
                version = request.query.get("api-version", "")
                self._device.check(scope, version)
                shown = Shown(request.chain, request.headers.get("authorization", ""))
                match method, rest:
                    case "PUT", ["register"]:
                        return self._device.register(registration_id, shown, request.body, version)
                    case "GET", ["operations", operation_id]:
                        return self._device.operation(registration_id, operation_id, shown)
                    case "POST", []:
                        return self._device.lookup(registration_id, shown, request.body)
        raise Problem(404001, "Resource not found.")

    def _hub(self, request: Request) -> Answer:
        """Answer in the place of a hub: whose policy signed the token, that one is meant."""
        try:
            header = request.headers.get("authorization", "")
            hub = next((hub for hub in self.hubs.values() if hub.lets_in(header)), None)
            if hub is None:
                raise Problem(401000, "Unauthorized")
            self._gate.hub(hub.name)
            return hub.registry.answer(request)
        except Problem as problem:
            return hub_problem(problem)

    def _bearer(self, request: Request) -> None:
        sent = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(sent, f"Bearer {self.management_token}".encode()):
            raise Problem(401000, "Unauthorized")
