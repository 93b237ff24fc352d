"""What the service refuses, in its own words: the exceptions of the API model, as REST-JSON carries them.

Sources: the service model of AWS IoT (2015-05-28) as botocore ships it; its error shapes name the HTTP status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Refusal", "already_exists", "invalid", "not_found"]


class Refusal(Exception):  # a protocol answer, not a failure of birthmark
    """A modelled exception. ``code``: its name in the API model; ``members``: what its body holds besides the text."""

    def __init__(self, code: str, message: str, members: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.members = code, message, dict(members or {})


def invalid(message: str) -> Refusal:
    """Return ``InvalidRequestException``."""
    return Refusal("InvalidRequestException", message)


def not_found(what: str) -> Refusal:
    """Return ``ResourceNotFoundException``."""
    return Refusal("ResourceNotFoundException", f"{what} does not exist.")


def already_exists(message: str, resource_id: str, resource_arn: str) -> Refusal:
    """Return ``ResourceAlreadyExistsException`` with the resource that is in the way."""
    members = {"resourceId": resource_id, "resourceArn": resource_arn}
    return Refusal("ResourceAlreadyExistsException", message, members)
