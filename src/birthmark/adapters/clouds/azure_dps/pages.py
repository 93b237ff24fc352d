"""What the service holds, page by page; with hubs, a few blocked devices at a time: each costs calls of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from birthmark.adapters.clouds.azure_dps.documents import Enrollment, record_of
from birthmark.adapters.clouds.azure_dps.hubs import Hubs
from birthmark.adapters.clouds.azure_dps.individual import Enrollments
from birthmark.ports.cloud import CloudRecord

__all__ = ["Page", "Pages"]

_LOOKS = 10
"""Blocked devices in one page: a throttled hub, or a lost answer, has that many asked for again."""


@dataclass(frozen=True, slots=True)
class Page:
    """``rows``: enrolments that were read; ``records`` and ``after``: as of ``ports.CloudPage``."""

    rows: Sequence[Enrollment]
    records: Sequence[CloudRecord]
    after: str | None


@dataclass(slots=True)
class Pages:
    """Of one thread. With hubs a place is ``SKIP TOKEN``: how many rows of the service's page are behind us already."""

    enrollments: Enrollments
    hubs: Hubs | None
    _token: str | None = None
    _following: str | None = None
    _rows: list[Enrollment] = field(default_factory=list)

    def page(self, after: str) -> Page:
        """Return the records from a place on; the same place gives the same page again."""
        if self.hubs is None:
            rows, following = self.enrollments.page(after)
            return Page(rows, [record_of(row) for row in rows], following)
        skip, _, token = after.partition(" ")
        at = int(skip or "0")
        if at == 0 or token != self._token:
            self._rows, self._following = self.enrollments.page(token)
            self._token = token
        end = self._end(at)
        records = [self._seen(self.hubs, row) for row in self._rows[at:end]]
        more = None if self._following is None else f"0 {self._following}"
        return Page(self._rows[at:end], records, f"{end} {token}" if end < len(self._rows) else more)

    def _end(self, at: int) -> int:
        looks = 0
        for number in range(at, len(self._rows)):
            looks += not self._rows[number].enabled
            if looks > _LOOKS:
                return number
        return len(self._rows)

    def _seen(self, hubs: Hubs, row: Enrollment) -> CloudRecord:
        """Return the record; a device that works in a hub is enabled, whatever its enrolment says."""
        record = record_of(row)
        place = "" if row.enabled else hubs.working_in(record.key, record.name)
        return replace(record, standing="enabled", place=place) if place else record
