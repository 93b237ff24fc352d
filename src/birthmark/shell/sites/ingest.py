"""Coming home: a report file becomes what the authority knows, whichever skin handed it in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark.adapters.durable import naming_os_errors, sync_directory, sync_path, write_durably
from birthmark.adapters.ledgers.sqlite.replica import SqliteReplica
from birthmark.adapters.logstore import FileLogStore
from birthmark.errors import Refused
from birthmark.model.events import utc_text
from birthmark.wire.report import Acknowledgement, sign_acknowledgement
from birthmark.workflow.homecoming.ingest import (
    OpenedReport,
    ReportIngest,
    ReportOutcome,
    check_report,
    site_of_report,
)
from birthmark.workflow.homecoming.settle import Settlement
from birthmark.workflow.homecoming.settlelines import SettleWriter
from birthmark.workflow.homecoming.siteauthority import OwnRecord
from birthmark.workflow.homecoming.sitefindings import Contradiction, FindingBook
from birthmark.workflow.homecoming.sitemirror import SiteMirror
from birthmark.workflow.homecoming.siterevocations import SiteRevocations
from birthmark.workflow.homecoming.sitetemplates import SiteTemplates

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["IngestResult", "checking_processes", "ingest_file"]

_MANY_ENTRIES = 50_000
"""From so many new entries on, other processes check signatures: starting them costs as much as 4,000 receipts."""
_MOST_WAITING = 64
"""Reports that may wait for one before them."""

Progress = Callable[[str, int], None]
"""What is being done (``checking``, ``keeping``, ``settling``) and how many entries more are done."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of one file. ``settled``: devices; ``size``: entries of the site's log that are verified now.

    ``stopped``: why nothing is handed to the site any more. ``waiting``: reports kept until those before them are here.
    """

    report: ReportOutcome
    settled: int
    size: int
    findings: tuple[Contradiction, ...]
    stopped: str | None
    waiting: int
    ack: Path


def ingest_file(
    workspace: Workspace,
    path: Path,
    *,
    of: str | None = None,
    processes: int | None = None,
    progress: Progress = lambda what, count: None,
) -> IngestResult:
    """Take in one report; it is never changed and may be removed afterwards. ``of``: the site that handed it in.

    Power cut: the same call again finishes what was begun. A file that is damaged, foreign or no report is refused
    (``Tampered`` ``frames.*``, ``report.*``, ``log.*``; ``Refused``: ``report.foreign``, ``service.other_site``) and
    leaves no trace.
    """
    opened = partial(_reading, path)
    site = site_of_report(workspace.records, opened).site
    if of not in (None, site):
        raise Refused(
            "service.other_site",
            f"a report of site {site} comes from {of}",
            hint="Let a station of that site send it, or take it in with `birthmark site ingest`.",
            site=site,
        )
    with workspace.lock(f"ingest-{site}", wait=True):
        return _SiteDesk(workspace, site, processes, progress).take(path, opened)


class _SiteDesk:
    """Everything about one site, while its lock is held."""

    def __init__(self, workspace: Workspace, site: str, processes: int | None, progress: Progress) -> None:
        self._workspace = workspace
        self._site = site
        self._processes = processes
        self._progress = progress
        self._root = workspace.root / "sites" / site
        self._inbox = self._root / "inbox"
        record = workspace.records.site(site)
        self._mirror = SiteMirror(FileLogStore(self._root / "log"), origin=record.origin, vkey=record.vkey)
        self._book = FindingBook(workspace.records, site, clock=workspace.clock, by=workspace.by)
        self._ingest = ReportIngest(
            ledger=workspace.ledger,
            records=workspace.records,
            mirror=self._mirror,
            site=site,
            clock=workspace.clock,
            book=self._book,
        )

    def take(self, path: Path, opened: OpenedReport) -> IngestResult:
        self._ingest.recover()
        outcome = self._take_one(opened)
        if outcome.outcome == "gap":
            self._keep(path, outcome)
        self._take_waiting()
        settled = self._settle()
        site = self._workspace.records.site(self._site)
        return IngestResult(
            report=outcome,
            settled=settled,
            size=site.reported,
            findings=tuple(self._book.raised),
            stopped=site.stopped,
            waiting=len(self._waiting()),
            ack=self._acknowledge(),
        )

    def _take_one(self, opened: OpenedReport) -> ReportOutcome:
        site = self._workspace.records.site(self._site)
        report = check_report(opened, site, known=site.reported, progress=partial(self._progress, "checking"))
        return self._ingest.take(opened, report, progress=partial(self._progress, "keeping"))

    def _waiting(self) -> list[Path]:
        return sorted(self._inbox.glob("*-*-*.report")) if self._inbox.is_dir() else []

    def _take_waiting(self) -> None:
        """Try what waits and begins early enough; a name begins with the number of the first entry."""
        for path in self._waiting():
            if int(path.name.partition("-")[0]) > self._workspace.records.site(self._site).reported:
                return
            if self._take_one(partial(_reading, path)).outcome != "gap":
                path.unlink()

    def _keep(self, path: Path, outcome: ReportOutcome) -> None:
        """Keep a report that proved itself until those before it are here.

        Power cut: it is kept whole or not at all.
        """
        if len(self._waiting()) >= _MOST_WAITING:
            raise Refused(
                "report.waiting",
                f"{_MOST_WAITING} reports of {self._site} wait already for one that begins at {outcome.known}",
                hint=f"Let the site report again with --since {outcome.known}.",
                site=self._site,
                known=outcome.known,
            )
        self._inbox.mkdir(mode=0o700, parents=True, exist_ok=True)
        with naming_os_errors(path):
            with path.open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
            kept = self._inbox / f"{outcome.first:019}-{outcome.size:019}-{digest[:16]}.report"
            unfinished = kept.with_suffix(".new")
            shutil.copyfile(path, unfinished)
            unfinished.chmod(0o600)
            sync_path(unfinished)
            unfinished.replace(kept)
        sync_directory(self._inbox)

    def _settle(self) -> int:
        workspace = self._workspace
        site = workspace.records.site(self._site)
        new = site.reported - site.settled
        if new <= 0:
            return 0
        own = OwnRecord(workspace.ledger, workspace.records, site)
        workers = checking_processes(new, self._processes)
        with closing(SqliteReplica(self._root / "replica")) as replica, _checking(workers) as check_map:
            templates = SiteTemplates(
                own,
                replica,
                ca_certificate=lambda ca: getattr(workspace.records.ca(ca), "certificate", None),
                profile=workspace.profile,
                values=lambda product: workspace.product(product).values,
            )
            settlement = Settlement(
                own,
                ledger=workspace.ledger,
                records=workspace.records,
                mirror=self._mirror,
                replica=replica,
                templates=templates,
                book=self._book,
                writer=SettleWriter(own, clock=workspace.clock),
                revocations=SiteRevocations(own, workspace.records, clock=workspace.clock),
                check_map=check_map,
            )
            return settlement.run(partial(self._progress, "settling"))

    def _acknowledge(self) -> Path:
        """Write the signed head that the site may report from."""
        workspace, site = self._workspace, self._workspace.records.site(self._site)
        ack = Acknowledgement(
            authority=workspace.settings.origin,
            site=site.site,
            origin=site.origin,
            size=site.reported,
            root=site.root or self._mirror.frontier(0).root().hex(),
            at=utc_text(workspace.clock()),
        )
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        path: Path = self._root / "ack"
        note = sign_acknowledgement(ack, workspace.private_key(workspace.settings.log.key))
        write_durably(path, note, mode=0o644)
        return path


@contextmanager
def _reading(path: Path) -> Iterator[Callable[[int], bytes]]:
    with naming_os_errors(path), path.open("rb") as file:
        yield file.read


def checking_processes(entries: int, processes: int | None) -> int:
    """Return how many other processes check the signatures in so many new entries; 0: this one does it."""
    workers = processes or len(os.sched_getaffinity(0))
    return 0 if entries < _MANY_ENTRIES or workers < 2 else workers


@contextmanager
def _checking(workers: int) -> Iterator[Any]:
    """Yield a ``map`` for the signatures: in this process, or in others while this one goes on."""
    if workers == 0:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map
