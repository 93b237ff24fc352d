"""A device registers itself at the Device Provisioning Service, over HTTPS with its own certificate.

Device API (Azure REST API specifications, Device Provisioning Services, data plane, ``device``): register with PUT,
poll the operation as often as ``retry-after`` says, until it is assigned, disabled or failed. The service judges the
certificate after the handshake and says 401 in the protocol. Cut at any moment: registering again is the same again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import msgspec

from birthmark.adapters.clouds.azure_dps.http import HttpAnswer, Request, exchange
from birthmark.adapters.clouds.knock import Knock, Visitor, unreachable
from birthmark.adapters.clouds.said import name_in, shown
from birthmark.errors import Refused, Unavailable
from birthmark.ports import Fence
from birthmark.ports.admission import Admission, DeviceTls, TlsServer

__all__ = ["DEVICE_HOST", "AzureDpsDevices"]

DEVICE_HOST: Final = "global.azure-devices-provisioning.net"
_SERVICE: Final = "azure-dps"
_API_VERSION = "2021-06-01"
_REGISTRATION_ID = re.compile(r"[A-Za-z0-9._:-]{0,63}[A-Za-z0-9-]")
_EXCHANGE_S = 30.0
_SILENT_TRIES = 3
_MOST_PAUSE_S = 30.0


class _State(msgspec.Struct, rename="camel"):
    assigned_hub: str | None = None
    device_id: str | None = None
    status: str | None = None
    substatus: str | None = None
    error_code: int | None = None
    error_message: str | None = None
    x509: Any = None


class _Said(msgspec.Struct, rename="camel"):
    """What a good answer and an error body hold, in one."""

    operation_id: str | None = None
    status: str | None = None
    registration_state: _State | None = None
    error_code: int | None = None
    message: str | None = None
    tracking_id: str | None = None


_said = msgspec.json.Decoder(_Said)


class AzureDpsDevices:
    """Implements ``ports.Door`` for one ID scope. ``trust``: PEM file of the service's CAs, "" for the system's."""

    def __init__(
        self,
        *,
        id_scope: str,
        host: str = DEVICE_HOST,
        port: int = 443,
        trust: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._scope = id_scope
        self._server = TlsServer(host, port, host, trust)
        self._sleep = sleep

    def admit(self, device: DeviceTls, fence: Fence) -> Admission:
        visitor = Visitor(device)
        visitor.require_name(
            _REGISTRATION_ID,
            cloud="the provisioning service",
            hint="It takes 64 letters, digits and -._: at most, the last one a letter, a digit or a hyphen.",
        )
        return _Registering(
            visitor, self._server, self._scope, Knock(fence, most_s=_EXCHANGE_S, sleep=self._sleep)
        ).run()


class _Registering:
    def __init__(self, visitor: Visitor, server: TlsServer, scope: str, knock: Knock) -> None:
        self._visitor = visitor
        self._server = server
        self._scope = scope
        self._knock = knock
        self._path = f"/{quote(scope, safe='')}/registrations/{quote(visitor.name, safe='')}"

    def run(self) -> Admission:
        body = msgspec.json.encode({"registrationId": self._visitor.name})
        answer, said = self._ask("PUT", "register", body)
        while said.status == "assigning":
            self._knock.wait(min(max(1, answer.retry_after), _MOST_PAUSE_S), self._still_assigning())
            operation = name_in(said.operation_id, "an operation")
            answer, said = self._ask("GET", f"operations/{quote(operation, safe='')}")
            said.operation_id = said.operation_id or operation
        state = said.registration_state or _State()
        if said.status != "assigned" or (state.status or "assigned") != "assigned":
            raise self._not_assigned(said, state)
        self._require_same_certificate(state)
        return Admission(
            service=_SERVICE,
            host=self._server.name,
            scope=self._scope,
            assigned_to=name_in(state.assigned_hub, "a hub"),
            device_name=name_in(state.device_id, "a device ID"),
            cert_sha256=self._visitor.cert_sha256,
            held_by=self._visitor.tls.held_by,
            detail=shown(state.substatus or ""),
        )

    def _ask(self, method: str, what: str, body: bytes = b"") -> tuple[HttpAnswer, _Said]:
        """Return an answer that decides something; ask again where the service says not now, or says nothing."""
        request = Request(method, f"{self._path}/{what}?api-version={_API_VERSION}", body)
        silent, pause = 0, 1.0
        while True:
            try:
                answer = exchange(self._visitor.tls, self._server, request, self._knock.begin())
            except OSError as problem:
                silent += 1
                trouble = unreachable(self._server.host, problem)
                if silent == _SILENT_TRIES:
                    raise trouble from problem
                self._knock.wait(pause, trouble)
            else:
                if answer.status in (200, 202):
                    return answer, self._read(answer)
                if answer.status != 429 and answer.status < 500:
                    raise self._refused(answer)
                self._knock.wait(max(pause, answer.retry_after), self._not_now(answer))
            pause = min(2 * pause, _MOST_PAUSE_S)

    def _read(self, answer: HttpAnswer) -> _Said:
        try:
            return _said.decode(answer.body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return _Said(message=f"HTTP status {answer.status}")

    def _not_now(self, answer: HttpAnswer) -> Unavailable:
        said = self._read(answer)
        if answer.status != 429:
            return unreachable(self._server.host, f"{answer.status} {said.message or ''}")
        return Unavailable(
            "cloud.admit.throttled",
            f"the provisioning service is asked too often: {shown(said.message or '')}",
            hint="Wait, then run the same command again; fewer heads at once ask less often.",
            retry_after=answer.retry_after,
            answer=str(said.error_code or answer.status),
        )

    def _refused(self, answer: HttpAnswer) -> Refused:
        said = self._read(answer)
        code = str(said.error_code or answer.status)
        return Refused(
            "cloud.admit.refused",
            f"the provisioning service does not let {self._visitor.name} in: {code} {shown(said.message or '')}",
            hint="Make its CA or the device itself known with `birthmark register`, and check that it has not expired.",
            answer=code,
            tracking_id=shown(said.tracking_id or ""),
            scope=self._scope,
        )

    def _not_assigned(self, said: _Said, state: _State) -> Refused | Unavailable:
        status = shown(said.status or state.status or "")
        code = str(state.error_code or said.error_code or "")
        if status == "disabled":
            return Refused(
                "cloud.admit.disabled",
                f"the enrolment of {self._visitor.name} is disabled in the cloud",
                hint="Somebody blocked this device or its group; find out why before it is shipped.",
                answer=code or status,
                scope=self._scope,
            )
        if status == "failed":
            return Refused(
                "cloud.admit.failed",
                f"the cloud could not assign {self._visitor.name}: {code} {shown(state.error_message or '')}",
                hint="Look at its enrolment: the hubs it may be assigned to, and what a function of yours returned.",
                answer=code or status,
                scope=self._scope,
            )
        return Unavailable(
            "cloud.admit.answer",
            f"the cloud said {status or 'nothing'} of {self._visitor.name}, which is no state of a registration",
            hint="Check that the address is that of the cloud, and look at what stands between it and the station.",
            what="a state",
        )

    def _still_assigning(self) -> Unavailable:
        return Unavailable(
            "cloud.admit.assigning",
            f"the cloud has not assigned {self._visitor.name} within the time this device has",
            hint="Run the same command again: it asks for the same registration.",
            scope=self._scope,
        )

    def _require_same_certificate(self, state: _State) -> None:
        """Where the service says which certificate it saw, it is the one that was shown."""
        info = state.x509.get("certificateInfo") if isinstance(state.x509, dict) else None
        seen = info.get("sha256Thumbprint") if isinstance(info, dict) else None
        if isinstance(seen, str) and seen.lower() != self._visitor.cert_sha256:
            raise Refused(
                "cloud.admit.certificate",
                f"the cloud speaks of another certificate than the one that {self._visitor.name} showed",
                hint="Another device has this name, or something stands between the station and the cloud.",
                found=shown(seen),
            )
