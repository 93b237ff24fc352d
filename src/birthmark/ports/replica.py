"""The tables of a site, rebuilt at its authority from the site's log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from birthmark.errors import BirthmarkError
from birthmark.model.device import DeviceState
from birthmark.model.events import Event
from birthmark.ports.ledger import Records

__all__ = ["SiteReplica"]


class SiteReplica(Protocol):
    """What a site's own ledger must hold after ``size`` entries of its log. A cache: the log is the truth.

    ``take`` folds entries that follow and returns, by number, why some are unlawful; those change nothing, the others
    stand. ``records`` sees what was taken at once; it is durable only after ``keep``, and ``size`` counts from the
    last ``keep`` when it is opened again.
    """

    @property
    def size(self) -> int: ...

    @property
    def records(self) -> Records: ...

    def take(self, first: int, entries: Sequence[tuple[Event, bytes] | None]) -> Mapping[int, BirthmarkError]:
        """Fold entries ``first`` and on; None stands for one that is no event."""
        ...

    def places(self, device_serials: Iterable[str]) -> Mapping[str, tuple[str, DeviceState]]:
        """Return order and state of each device that there is."""
        ...

    def certificate_entries(self, device_serials: Iterable[str]) -> Mapping[str, int]:
        """Return the numbers of the entries that hold the certificates of devices, of those that have one."""
        ...

    def keep(self) -> None: ...

    def start_over(self) -> None:
        """Forget everything: ``size`` is 0, durably."""
        ...

    def close(self) -> None: ...
