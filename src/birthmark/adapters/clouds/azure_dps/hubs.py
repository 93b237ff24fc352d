"""IoT hubs: a blocked device is disabled in the hub that it was assigned to, and enabled again if that was our doing.

The enrolment is blocked first, so that no registration follows; then the hub. To let a device in again it is the other
way round: cut between the two, the enrolment still says that there is something to do. An identity is read and written
back whole, only if it is still what was read. Shapes: Azure REST API, IoT Hub service (devices), 2021-04-12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from birthmark.adapters.clouds.azure_dps.documents import is_shown_name, read_document
from birthmark.adapters.clouds.azure_dps.individual import decoded
from birthmark.adapters.clouds.azure_dps.uri import DpsUri
from birthmark.adapters.clouds.azure_dps.web import Answer, DpsWeb, bad_answer
from birthmark.errors import Misconfigured, Unavailable
from birthmark.ports.cloud import Outcome

__all__ = ["OUR_REASON", "Hubs", "most_calls"]

OUR_REASON = "blocked by birthmark"
"""Stands in ``statusReason`` of what we disabled: only that is ours to enable again."""
_READ_ONLY = ("generationId", "etag", "connectionState", "connectionStateUpdatedTime", "statusUpdatedTime",
              "lastActivityTime", "cloudToDeviceMessageCount")  # fmt: skip
_Status = Literal["enabled", "disabled"]


class _Identity(msgspec.Struct, rename="camel"):
    device_id: str
    etag: str
    status: _Status
    status_reason: str | None = None


class _State(msgspec.Struct, rename="camel"):
    assigned_hub: str | None = None
    device_id: str | None = None


_read_identity = msgspec.json.Decoder(_Identity).decode
_read_state = msgspec.json.Decoder(_State).decode


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a device may have an identity: (hub, device id); ``unknown``: a hub that nobody let us into."""

    places: Sequence[tuple[str, str]]
    unknown: str = ""


def most_calls(hubs: int) -> int:
    """Return what one device costs at most: ask where it is, then read and write there.

    Its id may be written in two ways in the one hub that is known, and in one way in each where none is known.
    """
    return 1 + 2 * max(2, hubs)


class Hubs:
    """The hubs of one service, each with a client of its own; ``service`` knows which hub a device was assigned to."""

    def __init__(self, uri: DpsUri, service: DpsWeb, webs: Mapping[str, DpsWeb]) -> None:
        self._name, self._service, self._webs = uri.name, service, webs

    @property
    def calls(self) -> int:
        """Requests that were sent to hubs, answered or not."""
        return sum(web.calls for web in self._webs.values())

    @property
    def most_calls(self) -> int:
        """What ``block``, ``allow`` or ``working_in`` of one device costs at most."""
        return most_calls(len(self._webs))

    def greet(self) -> Iterator[str]:
        """Ask each hub something small; yield a line on each. Raises as ``ports.Cloud.prepare`` does."""
        for hub, web in self._webs.items():
            web.call("GET", "/statistics/devices")
            yield f"hub {hub}: lets us in"

    def block(self, told: Outcome) -> Outcome:
        """Disable a device whose enrolment is blocked, as ``told`` says; return what became of it in both places.

        No identity is as good as a disabled one. ``cloud.hub.unknown``: it works where nobody let us in. Raises as
        ``ports.Cloud.tell`` does.
        """
        found = self._find(told.device_serial, told.device_serial)
        if found.unknown:
            detail = f"it was assigned to {found.unknown}: name that hub in hubs of this cloud, or disable it there"
            return Outcome(told.device_serial, "refused", "cloud.hub.unknown", detail)
        changed = [hub for hub, device in found.places if self._set(hub, device, "disabled")]
        if not changed:
            return told
        return replace(told, kind="done", detail=f"disabled in {', '.join(changed)}")

    def allow(self, device_serial: str) -> None:
        """Enable a device that is to be let in again, where we have disabled it."""
        for hub, device in self._find(device_serial, device_serial).places:
            self._set(hub, device, "enabled")

    def working_in(self, registration_id: str, device_id: str) -> str:
        """Return where a blocked device is enabled, for a person; empty if nowhere."""
        found = self._find(registration_id, device_id)
        if found.unknown:
            return f"{found.unknown} perhaps, which hubs does not name"
        for hub, device in found.places:
            held = self._get(hub, device)
            if held is not None and held[1].status == "enabled":
                return hub
        return ""

    def close(self) -> None:
        """Close all connections."""
        for web in self._webs.values():
            web.close()

    def _find(self, registration_id: str, device_id: str) -> _Found:
        """Return where to look. Without a registration, which somebody may have deleted, in every hub."""
        path = f"/registrations/{quote(registration_id.lower(), safe='')}"
        answer = self._service.call("GET", path, also=(404,))
        state = _State() if answer.status == 404 else decoded(_read_state, answer, self._name)
        if not all(is_shown_name(text) for text in (state.assigned_hub, state.device_id) if text):
            raise bad_answer(self._name, "a registration with a name that none can have")
        if not state.assigned_hub:
            return _Found([(hub, device_id) for hub in self._webs])
        hub = state.assigned_hub.lower()
        devices = dict.fromkeys((state.device_id or device_id, device_id))
        return _Found([(hub, device) for device in devices]) if hub in self._webs else _Found((), hub)

    def _get(self, hub: str, device: str) -> tuple[dict[str, Any], _Identity] | None:
        answer = self._webs[hub].call("GET", _path(device), also=(404,))
        if self._absent(answer, hub):
            return None
        return decoded(read_document, answer, self._named(hub)), self._identity(answer, hub, device)

    def _identity(self, answer: Answer, hub: str, device: str) -> _Identity:
        identity = decoded(_read_identity, answer, self._named(hub))
        if identity.device_id != device or not is_shown_name(identity.etag):
            raise bad_answer(self._named(hub), "an identity of another device")
        return identity

    def _set(self, hub: str, device: str, status: _Status) -> bool:
        """Bring an identity to ``status``; say whether it was another one."""
        held = self._get(hub, device)
        if held is None or held[1].status == status:
            return False
        document, identity = held
        if status == "enabled" and identity.status_reason != OUR_REASON:
            return False  # somebody else has disabled it
        reason = OUR_REASON if status == "disabled" else None
        kept = {name: value for name, value in document.items() if name not in _READ_ONLY}
        body = {**kept, "status": status, "statusReason": reason}
        headers = {"if-match": f'"{identity.etag.strip(chr(34))}"'}
        answer = self._webs[hub].call("PUT", _path(device), body, headers=headers, also=(404, 409, 412))
        if answer.status in (409, 412):
            raise self._moved(hub)
        if self._absent(answer, hub):
            return False
        if self._identity(answer, hub, device).status != status:
            raise bad_answer(self._named(hub), "an identity that is not as it was written")
        return True

    def _absent(self, answer: Answer, hub: str) -> bool:
        """Say whether the hub has no such device; any other 404 is not one of a hub that is there."""
        if answer.status != 404:
            return False
        if "DeviceNotFound" in (answer.headers.get("iothub-errorcode", ""), answer.message.partition(";")[0][10:]):
            return True
        raise Misconfigured(
            "cloud.address",
            f"there is no registry of a hub at this address (HTTP 404): {answer.message}",
            hint="Check the names of the hubs of this cloud.",
            cloud=self._name,
            hub=hub,
        )

    def _named(self, hub: str) -> str:
        return f"{self._name} hub {hub}"

    def _moved(self, hub: str) -> Unavailable:
        return Unavailable(
            "cloud.record.moved",
            f"somebody else changes identities in the hub {hub} at this moment",
            hint="The same is told again later.",
            cloud=self._name,
            hub=hub,
        )


def _path(device: str) -> str:
    return f"/devices/{quote(device, safe='')}"
