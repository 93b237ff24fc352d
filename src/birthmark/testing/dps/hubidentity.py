"""An identity in the registry of a hub, as its API takes and shows it (Azure REST API, IoT Hub service, ``Device``)."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from typing import Any

from birthmark.testing.dps.answers import Problem

__all__ = ["NEVER", "read_identity", "shown_credentials"]

NEVER = "0001-01-01T00:00:00"
"""How a hub writes a time that has not come yet."""
_STATUSES = ("enabled", "disabled")
_KINDS = ("sas", "selfSigned", "certificateAuthority", "none")
_LONGEST_REASON = 128
_THUMBPRINT = re.compile(r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}", re.ASCII)
_KEYS = ("primaryKey", "secondaryKey")
_THUMBPRINTS = ("primaryThumbprint", "secondaryThumbprint")


def read_identity(document: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a document says of an identity, the whole of it; ``Problem(400001)`` if it does not fit.

    A ``PUT`` replaces: credentials that are left out become new symmetric keys, as in a hub.
    """
    status, reason = document.get("status") or "enabled", document.get("statusReason")
    if status not in _STATUSES:
        raise Problem(400001, "The status is enabled or disabled")
    if reason is not None and (not isinstance(reason, str) or len(reason) > _LONGEST_REASON):
        raise Problem(400001, f"The statusReason has {_LONGEST_REASON} characters at most")
    told = document.get("authentication")
    capabilities = document.get("capabilities") or {"iotEdge": False}
    if not isinstance(told, Mapping | None) or not isinstance(capabilities, Mapping):
        raise Problem(400001, "The authentication or the capabilities are not objects")
    return {
        "status": status,
        "statusReason": reason,
        "authentication": shown_credentials(told or {"type": "sas"}),
        "capabilities": {"iotEdge": capabilities.get("iotEdge") is True},
        "deviceScope": document.get("deviceScope"),
        "parentScopes": document.get("parentScopes"),
    }


def shown_credentials(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``AuthenticationMechanism``, with every member that the API shows."""
    kind = told.get("type") or "sas"
    keys, prints = _object(told, "symmetricKey"), _object(told, "x509Thumbprint")
    if kind not in _KINDS:
        raise Problem(400001, "The type of the authentication is not known")
    if kind == "selfSigned" and not any(_THUMBPRINT.fullmatch(str(prints.get(slot))) for slot in _THUMBPRINTS):
        raise Problem(400001, "A thumbprint has 40 or 64 hexadecimal digits")
    made = {slot: keys.get(slot) or base64.b64encode(os.urandom(32)).decode() for slot in _KEYS}
    return {
        "symmetricKey": made if kind == "sas" else dict.fromkeys(_KEYS),
        "x509Thumbprint": {slot: prints.get(slot) if kind == "selfSigned" else None for slot in _THUMBPRINTS},
        "type": kind,
    }


def _object(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name) or {}
    if not isinstance(value, Mapping):
        raise Problem(400001, f"{name} is not an object")
    return value
