"""The identity registries of the linked IoT hubs: filled by assignments, read and changed over HTTPS ``/devices/{id}``.

Shapes and rules: Azure REST API, IoT Hub service, version 2021-04-12 (devices). No device connects to a hub here.
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from typing import Any

from birthmark.testing.dps.answers import Answer, Problem, json_object, utc_now
from birthmark.testing.dps.http import Request
from birthmark.testing.dps.hubidentity import NEVER, read_identity, shown_credentials

__all__ = ["HUB_POLICY", "HubRegistry", "hub_problem"]

HUB_POLICY = "registryReadWrite"
_MOST_LISTED = 1000
_CODES = {400: "ArgumentInvalid", 401: "IotHubUnauthorizedAccess", 404: "DeviceNotFound", 409: "DeviceAlreadyExists",
          412: "PreconditionFailed", 403: "IotHubQuotaExceeded", 429: "ThrottlingException"}  # fmt: skip


class HubRegistry:
    """The identities of one hub. ``most``: how many it takes; ``key``: of its policy, base64."""

    def __init__(self, name: str, most: int) -> None:
        self.name, self.key = name, base64.b64encode(os.urandom(32)).decode()
        self.devices: dict[str, dict[str, Any]] = {}
        self._most = most

    def assign(self, device_id: str, credentials: Mapping[str, Any], capabilities: Mapping[str, Any]) -> None:
        """Make the identity of an assigned device, or give the one that is there its credentials of now.

        What an operator has set stays as it is: status, reason, scopes.
        """
        old = self.devices.get(device_id)
        authentication = shown_credentials(credentials)
        if old is None:
            self._put(device_id, read_identity({"authentication": authentication, "capabilities": capabilities}, None))
        elif old["authentication"] != authentication:
            self._put(device_id, {**old, "authentication": authentication})

    def release(self, device_id: str) -> dict[str, Any] | None:
        """Take an identity away, because its device moves to another hub; return it, None if there was none."""
        return self.devices.pop(device_id, None)

    def adopt(self, identity: Mapping[str, Any]) -> None:
        """Take an identity over as another hub had it."""
        self._put(str(identity["deviceId"]), {**identity, "generationId": _number()})

    def answer(self, request: Request) -> Answer:
        """Answer one request that was let in."""
        match request.method, request.path:
            case "GET", ("devices",):
                count = request.query.get("top", str(_MOST_LISTED))
                if not count.isascii() or not count.isdigit() or not 0 < int(count[:9]) <= _MOST_LISTED:
                    raise Problem(400001, f"top is 1 to {_MOST_LISTED}")
                return Answer(200, [self.devices[name] for name in sorted(self.devices)[: int(count)]])
            case "GET", ("statistics", "devices"):
                enabled = sum(one["status"] == "enabled" for one in self.devices.values())
                counted = {"totalDeviceCount": len(self.devices), "enabledDeviceCount": enabled}
                return Answer(200, {**counted, "disabledDeviceCount": len(self.devices) - enabled})
            case "GET", ("devices", name):
                return self._shown(self._need(name))
            case "PUT", ("devices", name):
                return self._shown(self.put(name, json_object(request.body), request.headers.get("if-match")))
            case "DELETE", ("devices", name):
                self._match(self._need(name), request.headers.get("if-match") or "")
                del self.devices[name]
                return Answer(204)
        raise Problem(405001, "Method not allowed.")

    def put(self, name: str, document: Mapping[str, Any], match: str | None) -> dict[str, Any]:
        """Make (``match`` None) or replace an identity; return it. ``Problem``: 400, 404, 409, 412."""
        if document.get("deviceId") != name:
            raise Problem(400001, "The deviceId is not that of the path")
        old = self.devices.get(name)
        if match is None and old is not None:
            raise Problem(409001, f"A device with ID '{name}' is already registered")
        if match is not None:
            self._match(self._need(name), match)
        return self._put(name, read_identity(document, old))

    def _put(self, name: str, identity: Mapping[str, Any]) -> dict[str, Any]:
        if name not in self.devices and len(self.devices) >= self._most:
            raise Problem(403001, f"Total number of devices on IotHub exceeded the allotted quota: {self._most}")
        old, etag = self.devices.get(name), base64.b64encode(_number()[:9].encode()).decode()
        moved = old is None or old["status"] != identity["status"]
        made = {
            "deviceId": name,
            "generationId": _number() if old is None else old["generationId"],
            "etag": etag,
            "connectionState": "Disconnected",
            "status": identity["status"],
            "statusReason": identity["statusReason"],
            "connectionStateUpdatedTime": NEVER,
            "statusUpdatedTime": utc_now()
            if moved and old is not None
            else (old or {}).get("statusUpdatedTime", NEVER),
            "lastActivityTime": NEVER,
            "cloudToDeviceMessageCount": 0,
            "authentication": identity["authentication"],
            "capabilities": identity["capabilities"],
            **{scope: identity[scope] for scope in ("deviceScope", "parentScopes") if identity.get(scope)},
        }
        self.devices[name] = made
        return made

    def _need(self, name: str) -> dict[str, Any]:
        found = self.devices.get(name)
        if found is None:
            raise Problem(404001, f"Device {name} not registered")
        return found

    def _match(self, identity: Mapping[str, Any], match: str) -> None:
        if match != "*" and match.strip('"') != identity["etag"]:
            raise Problem(412001, "Precondition failed: Device version did not match")

    def _shown(self, identity: dict[str, Any]) -> Answer:
        return Answer(200, identity, {"etag": f'"{identity["etag"]}"'})


def hub_problem(problem: Problem) -> Answer:
    """Return a refusal as a hub words it: ``Message`` and ``ExceptionMessage``, its code in ``iothub-errorcode``."""
    answer = problem.answer()
    code = _CODES.get(answer.status, "ServerError")
    body = {"Message": f"ErrorCode:{code};{problem.message}", "ExceptionMessage": f"Tracking ID:{uuid.uuid4().hex}"}
    kept = {name: value for name, value in answer.headers.items() if name == "retry-after"}
    return Answer(answer.status, body, {**kept, "iothub-errorcode": code})


def _number() -> str:
    return str(uuid.uuid4().int % 10**18)
