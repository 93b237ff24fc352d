"""Devices that AWS IoT gets to know when they first connect (JITP, JITR): only who is blocked has to be told.

A blocked device is a thing with a mark. The marked things are asked for once, so that a device that was never blocked
costs no call, and one that is let in again is found.
"""

from __future__ import annotations

import threading

from birthmark.adapters.clouds.aws_iot.calls import AwsSays, AwsTurn
from birthmark.adapters.clouds.aws_iot.certificates import NotThisDevice, describe_certificate, rows_of
from birthmark.adapters.clouds.aws_iot.facts import id_of
from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.adapters.clouds.aws_iot.things import BLOCKED_MARK, tell_thing, things_calls
from birthmark.errors import Unavailable
from birthmark.ports import Registration

__all__ = ["JustInTime"]

_PAGE = 250
_MOST_PAGES = 4_000


class JustInTime:
    """Who is blocked, as AWS says it and as it was told from here since."""

    def __init__(self, options: AwsIotOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._blocked: set[str] | None = None

    def calls(self, registration: Registration) -> int:
        """Return the most calls that ``tell`` makes for one device whose mark is known."""
        if registration.standing == "blocked":
            return things_calls(registration) + 2
        if self._blocked is not None and registration.device_serial not in self._blocked:
            return 0
        return 3 * len(registration.certificates) + 1

    @property
    def first_calls(self) -> int:
        """Return the most calls that finding the marked things takes, if there are no more than 1,000."""
        return 0 if self._blocked is not None else 5

    def tell(self, turn: AwsTurn, registration: Registration) -> bool | None:
        """Bring one device to what is told; return whether anything was changed, None: AWS needs nothing."""
        name = registration.device_serial
        blocked = self._marked(turn)
        if registration.standing == "enabled":
            if name not in blocked:
                return None
            self._lift(turn, registration)
            with self._lock:
                blocked.discard(name)
            return True
        changed = tell_thing(self._options, turn, registration)
        if not registration.certificates:
            return changed or None
        with self._lock:
            blocked.add(name)
        if (turn.iot("describe_thing", thingName=name).get("attributes") or {}).get(BLOCKED_MARK[0]) != BLOCKED_MARK[1]:
            self._mark(turn, name, BLOCKED_MARK[1])
            return True
        return changed

    def _marked(self, turn: AwsTurn) -> set[str]:
        with self._lock:
            if self._blocked is None:
                self._blocked = _all_marked(turn)
            return self._blocked

    def _lift(self, turn: AwsTurn, registration: Registration) -> None:
        """Let in again what AWS knows of the told certificates; what it does not know yet, it will know by its CA."""
        for der in registration.certificates:
            found = describe_certificate(turn, id_of(der))
            if found is None or found[1] == "ACTIVE":
                continue
            if found[2] != der:
                raise NotThisDevice("cloud.aws.certificate.other", f"AWS holds another certificate as {id_of(der)}")
            if self._options.policy is not None:
                turn.iot("attach_policy", policyName=self._options.policy, target=found[0])
            turn.iot("update_certificate", certificateId=id_of(der), newStatus="ACTIVE")
        try:
            self._mark(turn, registration.device_serial, "")
        except AwsSays as answer:
            if answer.code != "ResourceNotFoundException":
                raise

    def _mark(self, turn: AwsTurn, name: str, value: str) -> None:
        payload = {"attributes": {BLOCKED_MARK[0]: value}, "merge": True}
        turn.iot("update_thing", thingName=name, attributePayload=payload)


def _all_marked(turn: AwsTurn) -> set[str]:
    found: set[str] = set()
    token: str | None = None
    for _ in range(_MOST_PAGES):
        page = turn.iot(
            "list_things",
            attributeName=BLOCKED_MARK[0],
            attributeValue=BLOCKED_MARK[1],
            maxResults=_PAGE,
            nextToken=token,
        )
        found |= {str(one.get("thingName", "")) for one in rows_of(page, "things")}
        token = page.get("nextToken")
        if not token:
            return found
    raise Unavailable(
        "cloud.aws.answer",
        "AWS IoT names blocked things without end",
        hint="It is asked again; check the endpoint in the URI if it repeats.",
        member="nextToken",
    )
