"""One linked IoT hub of a running emulator: who is let in to its registry, and its records for the test beside it."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.hub import HUB_POLICY, HubRegistry
from birthmark.testing.dps.service import check_token

__all__ = ["EmulatedHub"]


class EmulatedHub:
    """``address`` returns host and port of the emulator, ``run`` runs a function where the records live.

    The records, by device id, are behind the back of every client: no limit, no fault, no token, no etag.
    """

    def __init__(
        self, registry: HubRegistry, run: Callable[[Callable[[], Any]], Any], address: Callable[[], str]
    ) -> None:
        self.registry, self._run, self._address = registry, run, address
        self.name, self.policy, self.key = registry.name, HUB_POLICY, registry.key

    @property
    def connection_string(self) -> str:
        """What service clients of this hub are given."""
        return f"HostName={self._address()};SharedAccessKeyName={self.policy};SharedAccessKey={self.key}"

    def lets_in(self, header: str) -> bool:
        """Say whether ``header`` is a SAS token for this hub, by its name or by the emulator's address."""
        for host in (self.name, self._address()):
            try:
                check_token(header, host, self.policy, base64.b64decode(self.key), time.time())
            except Problem:
                continue
            return True
        return False

    def __len__(self) -> int:
        return len(self.registry.devices)

    def __contains__(self, device_id: str) -> bool:
        return device_id in self.registry.devices

    def get(self, device_id: str) -> dict[str, Any]:
        """Return an identity as the API shows it; ``KeyError`` if there is none."""
        found: dict[str, Any] = self._run(lambda: copy.deepcopy(self.registry.devices[device_id]))
        return found

    def list(self) -> Iterator[dict[str, Any]]:
        """Yield every identity, by device id."""
        yield from self._run(lambda: [copy.deepcopy(one) for _, one in sorted(self.registry.devices.items())])

    def put(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Add or replace an identity, given as the API takes it; ``ValueError`` for what a hub would refuse."""
        name = str(document.get("deviceId"))

        def put() -> dict[str, Any]:
            return self.registry.put(name, document, "*" if name in self.registry.devices else None)

        try:
            return copy.deepcopy(dict(self._run(put)))
        except Problem as problem:
            raise ValueError(f"{problem.code}: {problem.message}") from None

    def delete(self, device_id: str) -> None:
        """Remove an identity; ``KeyError`` if there is none."""
        self._run(lambda: self.registry.devices.pop(device_id))
