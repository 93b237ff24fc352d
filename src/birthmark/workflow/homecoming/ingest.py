"""At the authority: take in the report of a site, or say what is wrong with it.

A report first proves itself (docs/formats/report.md), then its head is compared with the one that was verified
before. Only then is anything written: the site's log (``SiteMirror``), ``site_reported``, and what its entries mean
(``Settlement``). Each of these goes on where it stopped, so the same file again finishes what a power cut interrupted,
and changes nothing when all is done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from birthmark.errors import Refused, Tampered
from birthmark.model.events import SiteReported, utc_text
from birthmark.model.siterecords import SiteRecord
from birthmark.ports import Clock, Ledger
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint
from birthmark.tlog.merkle import Frontier, leaf_hashes
from birthmark.wire.report import ReportReader
from birthmark.workflow.homecoming.sitefindings import AuthorityRecords, Contradiction, FindingBook
from birthmark.workflow.homecoming.sitefork import fork_contradictions
from birthmark.workflow.homecoming.sitemirror import SiteMirror

__all__ = ["OpenedReport", "ReportIngest", "ReportOutcome", "SealedReport", "check_report", "site_of_report"]

OpenedReport = Callable[[], AbstractContextManager[Callable[[int], bytes]]]
"""Opens the file anew; ``read(n)`` returns exactly ``n`` octets, fewer only at its end."""


@dataclass(frozen=True, slots=True)
class SealedReport:
    """A report that proved itself: whole, and its entries lead from ``edge`` to the head that the site signed.

    ``at_known``: the edge at the size that the authority had verified, None where the report does not reach it.
    """

    edge: Frontier
    head: Checkpoint
    checkpoint: bytes
    at_known: Frontier | None


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """``taken``: the log grew. ``old``: nothing new in it. ``gap``: entries before ``first`` are not here yet.

    ``fork``: it contradicts what was verified; nothing of it was taken. ``known``: entries verified before it.
    """

    site: str
    outcome: Literal["taken", "old", "gap", "fork"]
    first: int
    size: int
    known: int


def site_of_report(records: AuthorityRecords, opened: OpenedReport) -> SiteRecord:
    """Return the site whose log a report claims to be of; ``Refused("report.foreign")`` if it is none of ours."""
    with opened() as read:
        origin = ReportReader(read).header.origin
    for site in records.sites():
        if site.origin == origin:
            return site
    raise Refused(
        "report.foreign",
        f"this is a report of {origin[:200]}, which is no site of this authority",
        hint="`birthmark site list` shows all sites; add it with `birthmark site add`.",
        origin=origin[:200],
    )


def check_report(
    opened: OpenedReport, site: SiteRecord, *, known: int, progress: Callable[[int], None] = lambda count: None
) -> SealedReport:
    """Return a report that proved itself; nothing is written, and memory stays that of one frame.

    ``Tampered``: ``frames.*``, ``report.malformed``, ``log.note.*``, ``log.checkpoint.*`` (not the site's signature),
    ``report.root`` (the entries are not those that the site signed).
    """
    with opened() as read:
        report = ReportReader(read)
        head = open_checkpoint(report.checkpoint, site.origin, site.vkey)
        edge = frontier = report.edge
        at_known = edge if edge.size == known else None
        for entries in report.entries():
            hashes = leaf_hashes(entries)
            until = known - frontier.size
            if 0 < until <= len(hashes):
                at_known = frontier.extend(hashes[:until])
            frontier = frontier.extend(hashes)
            progress(len(entries))
        if frontier.size != head.size or frontier.root() != head.root:
            raise Tampered(
                "report.root",
                "the entries in this report are not those that its head was signed for",
                hint="The file was changed after it was written: let the site write its report again.",
                site=site.site,
                size=head.size,
            )
    return SealedReport(edge, head, report.checkpoint, at_known)


class ReportIngest:
    """Takes in reports of one site. One at a time: the caller holds the site's lock."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: AuthorityRecords,
        mirror: SiteMirror,
        site: str,
        clock: Clock,
        book: FindingBook,
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._mirror = mirror
        self._site = site
        self._clock = clock
        self._book = book

    def recover(self) -> SiteRecord:
        """Record a head that a power cut left in the mirror alone; return the site as it is then."""
        site = self._record()
        self._mirror.require_whole()
        if self._mirror.size < site.reported or (
            site.reported and self._mirror.frontier(site.reported).root().hex() != site.root
        ):
            raise Tampered(
                "site.mirror.behind",
                f"{site.reported} entries of the log of {site.site} were verified, and they are not here",
                hint="Restore its directory below sites/ from a backup; then ingest the report again.",
                site=site.site,
                size=self._mirror.size,
            )
        self._report_head(site)
        return self._record()

    def take(
        self, opened: OpenedReport, report: SealedReport, *, progress: Callable[[int], None] = lambda count: None
    ) -> ReportOutcome:
        """Take in a report that ``check_report`` let through with ``known`` as of ``recover``."""
        site = self._record()
        first, size = report.edge.size, report.head.size
        if first > site.reported:
            return ReportOutcome(site.site, "gap", first, size, site.reported)
        if self._contradicts(report, site.reported):
            with opened() as read:
                reader = ReportReader(read)
                found = fork_contradictions(
                    self._mirror, first=first, pieces=reader.entries(), checkpoint=report.checkpoint
                )
            self._raise(found)
            return ReportOutcome(site.site, "fork", first, size, site.reported)
        if size <= site.reported:
            return ReportOutcome(site.site, "old", first, size, site.reported)
        with opened() as read:
            self._mirror.grow(first, ReportReader(read, seen=True).entries(), report.checkpoint, progress=progress)
        self._report_head(site)
        return ReportOutcome(site.site, "taken", first, size, site.reported)

    def _contradicts(self, report: SealedReport, known: int) -> bool:
        """Say whether no single log can have both heads."""
        if self._mirror.frontier(report.edge.size) != report.edge:
            return True
        if report.head.size <= known:
            return self._mirror.frontier(report.head.size).root() != report.head.root
        return report.at_known != self._mirror.frontier(known)

    def _report_head(self, site: SiteRecord) -> None:
        head = self._mirror.head
        if head is None or head.size <= site.reported:
            return
        event = SiteReported(at=utc_text(self._clock()), site=site.site, size=head.size, root=head.root.hex())
        with self._ledger.transaction() as tx:
            tx.append(event, self._mirror.checkpoint)

    def _raise(self, found: list[Contradiction]) -> None:
        fresh = self._book.note(found)
        if fresh:
            with self._ledger.transaction() as tx:
                self._book.append(tx, fresh)

    def _record(self) -> SiteRecord:
        site = self._records.site(self._site)
        if site is None:
            raise Refused(
                "site.unknown",
                f"there is no site {self._site}",
                hint="`birthmark site list` shows all; `birthmark site add` adds one.",
                site=self._site,
            )
        return site
