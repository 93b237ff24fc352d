"""What every target at a serial port has in common, whatever is spoken there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from birthmark.adapters.targets.links.budget import RetryBudget
from birthmark.adapters.targets.links.options import IdentityMap, answer_seconds, open_port, retries
from birthmark.adapters.targets.links.port import port_place
from birthmark.adapters.targets.links.session import same_device
from birthmark.adapters.targets.links.talk import Talk
from birthmark.adapters.targets.uri import TargetUri, decoded
from birthmark.ports import Fence

__all__ = ["PortTarget"]


class PortTarget:
    """The port, the retry budget and the identity of the device behind it; one device for as long as it lives."""

    def __init__(self, uri: TargetUri, base: Path) -> None:
        self._uri = uri
        self._name = uri.text
        self._path = decoded(uri.text, uri.path)
        self._answer_s = answer_seconds(uri)
        self._budget = RetryBudget(retries(uri))
        self._map = IdentityMap(uri, base)
        self._identity: str | None = None

    @property
    def place(self) -> str:
        """The port at which the device stands."""
        return port_place(self._path)

    @property
    def link_repeats(self) -> int:
        """How many repeats the link cost since this object was made."""
        return self._budget.spent

    def _device_serial(self) -> str:
        """Return what the device said it is, or the device serial that the map gives for it."""
        return self._map.device_serial(self._identity or "")

    def _meet(self, identity: str) -> None:
        """Take note of who answers; another device than before is a fault."""
        self._identity = same_device(self._identity, identity)

    @contextmanager
    def _talk(self, fence: Fence | None) -> Iterator[Talk]:
        port = open_port(self._uri, self._path)
        try:
            yield Talk(port, self._budget, answer_s=self._answer_s, fence=fence)
        finally:
            port.close()
