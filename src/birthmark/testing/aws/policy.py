"""What AWS IoT policies let a device do: connect, publish, subscribe, receive.

Source: AWS IoT developer guide, "AWS IoT Core policies". A statement with a Condition allows nothing here and denies
as if the condition held; policy variables are those of the thing and the client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from birthmark.testing.aws.registry import Registry

__all__ = ["Permits"]


class Permits:
    """What one connection may do, by the policies of its certificate as they are now.

    ``claim``: the template of a provisioning claim, which has no policies and may do what that template needs.
    """

    def __init__(self, registry: Registry, certificate_arn: str, client_id: str, claim: str = "") -> None:
        self._registry, self._arn, self._claim = registry, certificate_arn, claim
        self._variables = {"iot:ClientId": client_id}
        if client_id in registry.list_principal_things(certificate_arn):
            self._variables["iot:Connection.Thing.ThingName"] = client_id
            attached = "true"
        else:
            attached = "false"
        self._variables["iot:Connection.Thing.IsAttached"] = attached

    def allow(self, action: str, kind: str, name: str) -> bool:
        """Say whether ``iot:{action}`` is allowed on ``{kind}/{name}``: client, topic or topicfilter."""
        if self._claim:
            places = ("$aws/certificates/create", f"$aws/provisioning-templates/{self._claim}/provision/")
            return kind == "client" or name.startswith(places)
        wanted, allowed = self._registry.arn_of(kind, name), False
        for policy in self._registry.list_attached_policies(self._arn):
            for statement in _statements(str(policy.document)):
                if not self._meant(statement, f"iot:{action}", wanted):
                    continue
                if statement.get("Effect") == "Deny":
                    return False
                allowed = allowed or (statement.get("Effect") == "Allow" and "Condition" not in statement)
        return allowed

    def _meant(self, statement: Mapping[str, Any], action: str, resource: str) -> bool:
        actions, resources = (_texts(statement.get(key)) for key in ("Action", "Resource"))
        filled = (self._fill(text) for text in resources)
        return any(_alike(one.lower(), action.lower()) for one in actions) and any(
            one is not None and _alike(one, resource) for one in filled
        )

    def _fill(self, text: str) -> str | None:
        """Put variables in; a variable without a value makes the resource match nothing."""
        names = re.findall(r"\$\{([^}]*)\}", text)
        if any(name not in self._variables for name in names):
            return None
        return re.sub(r"\$\{([^}]*)\}", lambda match: self._variables[match[1]], text)


@lru_cache(maxsize=256)
def _statements(document: str) -> tuple[Mapping[str, Any], ...]:
    try:
        found = json.loads(document)["Statement"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(one for one in (found if isinstance(found, list) else [found]) if isinstance(one, dict))


def _texts(value: Any) -> Iterable[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _alike(pattern: str, text: str) -> bool:
    """Say whether ``text`` is what ``pattern`` means: ``*`` any run, ``?`` any one. Linear in memory, no backtracking
    beyond the last ``*``."""
    at = place = 0
    star, kept = -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, kept, at = at, place, at + 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at, place = at + 1, place + 1
        elif star >= 0:
            kept += 1
            at, place = star + 1, kept
        else:
            return False
    return not pattern[at:].strip("*")
