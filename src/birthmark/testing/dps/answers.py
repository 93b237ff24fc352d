"""What the emulator answers: one shape for every transport, and the error bodies of the service.

Error bodies: ``{errorCode, trackingId, message, timestampUtc}`` with the header ``x-ms-error-code`` (Azure REST API
specifications, Device Provisioning Services data plane). The first three digits of a code are the HTTP status. 401002
and its messages are as devices report them; the last three digits of the other codes are ours (docs/testing-dps.md).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

__all__ = ["Answer", "Problem", "json_object", "utc_now", "utc_stamp"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``body``: JSON-ready (parts may be ``msgspec.Raw``), None if empty; ``headers``: lower case."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def octets(self) -> bytes:
        """Return the body as it goes over the wire."""
        return b"" if self.body is None else msgspec.json.encode(self.body)


class Problem(Exception):  # a protocol answer, not a failure of birthmark
    """A refusal as the service words it. ``code``: six digits, the first three are the status."""

    def __init__(self, code: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def answer(self) -> Answer:
        """Return the refusal as an answer."""
        body = {
            "errorCode": self.code,
            "trackingId": str(uuid.uuid4()),
            "message": self.message,
            "timestampUtc": utc_now(),
        }
        headers = {"x-ms-error-code": str(self.code)}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return Answer(self.code // 1000, body, headers)


def utc_stamp(moment: datetime) -> str:
    """Return an aware moment as the service writes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def utc_now() -> str:
    """Return the present moment as the service writes it."""
    return utc_stamp(datetime.now(UTC))


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body``; anything else is ``Problem(400001)``."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(400001, "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Problem(400001, "The body is not a JSON object.")
    return value
