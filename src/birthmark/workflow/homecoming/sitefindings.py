"""What contradicts the record: findings, raised once each, and the stop of their site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from birthmark.model.events import FindingRaised, SiteStopped, utc_text
from birthmark.ports import Clock, Records, SiteRecords, Transaction

__all__ = ["AuthorityRecords", "Contradiction", "FindingBook"]

_MOST_EVIDENCE = 60_000
"""Octets; with its event it must fit into an entry of the log."""
_MOST_TEXT = 1_000


class AuthorityRecords(Records, SiteRecords, Protocol):
    """The tables of an authority."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A finding before it is on record. ``code``: docs/formats/report.md; ``entry``: number in the site's log."""

    code: str
    what: str
    entry: int | None = None
    device: str | None = None
    station: str | None = None
    evidence: bytes = b""


class FindingBook:
    """The findings about one site. A contradiction that is on record is not raised again."""

    def __init__(self, records: AuthorityRecords, site: str, *, clock: Clock, by: str) -> None:
        self._records = records
        self._site = site
        self._clock = clock
        self._by = by
        known = records.findings(site)
        self._known = {(finding.code, finding.device_serial, finding.entry) for finding in known}
        self.devices = {finding.device_serial for finding in known if finding.device_serial is not None}
        """Devices that a finding names: nothing good is settled for them any more."""
        self.raised: list[Contradiction] = []

    def note(self, found: Iterable[Contradiction]) -> list[Contradiction]:
        """Remember contradictions; return those that are new."""
        fresh = []
        for item in found:
            key = (item.code, item.device, item.entry)
            if key not in self._known:
                self._known.add(key)
                fresh.append(item)
            if item.device is not None:
                self.devices.add(item.device)
        return fresh

    def append(self, tx: Transaction, found: Iterable[Contradiction]) -> None:
        """Append new contradictions, and stop the site with the first."""
        for item in found:
            if not self.raised:
                self._stop(tx, item)
            self.raised.append(item)
            event = FindingRaised(
                at=utc_text(self._clock()),
                site=self._site,
                code=item.code,
                what=item.what[:_MOST_TEXT],
                device=item.device,
                station=item.station,
                entry=item.entry,
            )
            tx.append(event, item.evidence[:_MOST_EVIDENCE])

    def _stop(self, tx: Transaction, item: Contradiction) -> None:
        site = self._records.site(self._site)
        if site is not None and site.stopped is None:
            reason = f"{item.code}: {item.what}"[:_MOST_TEXT]
            tx.append(SiteStopped(at=utc_text(self._clock()), site=self._site, reason=reason, by=self._by))
