"""Reports in any order, doubled, overlapping, and of split logs: the mirror holds one log, and only what was proven."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import Refused, Tampered
from birthmark.model import events as e
from birthmark.tlog.checkpoint import Checkpoint, sign
from birthmark.tlog.merkle import Frontier, leaf_hashes
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.tlog.tiles import encode_entries
from birthmark.wire.report import ReportHeader, write_report
from birthmark.workflow.homecoming import sitemirror
from birthmark.workflow.homecoming.ingest import OpenedReport, ReportIngest, check_report, site_of_report
from birthmark.workflow.homecoming.sitefindings import FindingBook
from birthmark.workflow.homecoming.sitemirror import SiteMirror
from support.ledger import AT, Author, TestClock, create_sqlite

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SITE = "o/site/s"


class MemoryStore:
    """Implements ``ports.LogStore``; ``torn`` ends the process before a checkpoint is shown."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.torn = False

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def write(self, path: str, data: bytes) -> None:
        self.files[path] = data

    def publish(self, checkpoint: bytes) -> None:
        if self.torn:
            raise KeyboardInterrupt
        self.files["checkpoint"] = checkpoint


def opened(entries: list[bytes], first: int = 0, key: Ed25519PrivateKey = KEY, origin: str = SITE) -> OpenedReport:
    hashes = leaf_hashes(entries)
    note = sign(Checkpoint(SITE, len(entries), Frontier().extend(hashes).root()), key).encode()
    edge = tuple(item.hex() for item in Frontier().extend(hashes[:first]).hashes)
    file = io.BytesIO()
    header = ReportHeader(origin=origin, first=first, size=len(entries), edge=edge)
    write_report(file.write, header, note, [encode_entries(entries[first:])])

    @contextmanager
    def reading() -> Iterator[Any]:
        yield io.BytesIO(file.getvalue()).read

    return reading


class Desk:
    """An authority with one site."""

    def __init__(self, directory: Path) -> None:
        self.ledger = create_sqlite(directory / "ledger" / "ledger.db", TestClock())
        self.store = MemoryStore()
        added = e.SiteAdded(
            at=AT, site="s", origin=SITE, vkey=encode_vkey(SITE, public_octets(KEY)), site_prefix="0201", mode="pool",
            by="t",
        )  # fmt: skip
        Author(self.ledger).say(added, attachment=b"request")
        self.mirror = SiteMirror(self.store, origin=SITE, vkey=encode_vkey(SITE, public_octets(KEY)))

    def ingest(self) -> ReportIngest:
        book = FindingBook(self.ledger.records, "s", clock=TestClock(), by="t")
        return ReportIngest(
            ledger=self.ledger, records=self.ledger.records, mirror=self.mirror, site="s", clock=TestClock(), book=book
        )

    def take(self, report: OpenedReport) -> str:
        ingest = self.ingest()
        site = ingest.recover()
        outcome = ingest.take(report, check_report(report, site, known=site.reported))
        return outcome.outcome

    @property
    def known(self) -> int:
        site = self.ledger.records.site("s")
        assert site is not None
        return site.reported

    def holds(self, entries: list[bytes]) -> None:
        """Ledger, checkpoint and tiles all say the same."""
        known = self.known
        site = self.ledger.records.site("s")
        assert site is not None
        assert site.root == ("" if known == 0 else Frontier().extend(leaf_hashes(entries[:known])).root().hex())
        assert [entry for _, entry in self.mirror.entries(0, known)] == entries[:known]
        self.mirror.require_whole()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


def log_of(size: int, salt: bytes = b"") -> list[bytes]:
    return [salt + b"%d" % number * (number % 5) for number in range(size)]


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700)), min_size=1, max_size=9), st.integers(1, 600))
@settings(max_examples=25, deadline=None)
def test_reports_in_any_order_build_one_log(ranges: list[tuple[int, int]], step: int):
    """Whatever does not fit yet waits, and is tried again after each report."""
    log = log_of(701)
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sitemirror, "_STEP", step)
        desk = Desk(Path(directory))
        waiting = [opened(log[: max(pair)], min(pair)) for pair in ranges]
        for _ in ranges:
            waiting = [report for report in waiting if desk.take(report) == "gap"]
            desk.holds(log)
        reach = 0
        for _ in ranges:
            reach = max([reach, *(max(pair) for pair in ranges if min(pair) <= reach)])
        assert desk.known == reach
        desk.ledger.close()


@given(st.integers(1, 400), st.integers(0, 399), st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_a_split_log_is_always_told(known: int, split: int, begin: int, end: int):
    """``begin`` and ``end`` bound a report of the other side; both heads are signed by the site."""
    ours, theirs = log_of(known), [*log_of(split), *log_of(501 - split, b"other")]
    first, size = sorted((begin, end))
    with TemporaryDirectory() as directory:
        desk = Desk(Path(directory))
        assert desk.take(opened(ours)) == "taken"
        outcome = desk.take(opened(theirs[:size], first))
        same = min(split, known)
        if first > known:
            assert outcome == "gap"
        elif size <= same:
            assert outcome == "old"
        elif same == known:
            assert outcome == "taken"
        else:
            assert outcome == "fork"
            assert desk.known == known
            desk.holds(ours)
            found = desk.ledger.records.findings("s")
            assert {item.code for item in found} == {"site.fork"}
            site = desk.ledger.records.site("s")
            assert site is not None
            assert site.stopped is not None
        desk.ledger.close()


def test_a_head_that_only_the_mirror_has_is_recorded_first(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    log = log_of(300)
    desk.take(opened(log[:100]))
    ingest = desk.ingest()
    site = ingest.recover()
    monkeypatch.setattr(ingest, "_report_head", lambda site: None)
    report = opened(log)
    ingest.take(report, check_report(report, site, known=100))
    assert (desk.known, desk.mirror.size) == (100, 300)
    assert desk.take(opened(log[:200], 100)) == "old"
    assert desk.known == 300
    desk.holds(log)


def test_torn_tiles_are_written_again(desk: Desk):
    log = log_of(600)
    desk.take(opened(log[:300]))
    desk.store.torn = True
    with pytest.raises(KeyboardInterrupt):
        desk.take(opened([*log[:300], *log_of(300, b"lost")], 300))
    desk.store.torn = False
    desk.mirror = SiteMirror(desk.store, origin=SITE, vkey=encode_vkey(SITE, public_octets(KEY)))
    assert desk.take(opened(log, 250)) == "taken"
    desk.holds(log)


def test_a_file_that_changes_while_it_is_read_is_not_taken(desk: Desk):
    log = log_of(50)
    files = iter([opened(log), opened([*log[:49], b"changed"])])

    @contextmanager
    def changing() -> Iterator[Any]:
        with next(files)() as read:
            yield read

    with pytest.raises(Tampered, match=r"report\.changed"):
        desk.take(changing)
    assert desk.known == 0
    assert desk.take(opened(log)) == "taken"
    desk.holds(log)


def test_a_mirror_behind_the_ledger_is_not_grown(desk: Desk):
    log = log_of(80)
    desk.take(opened(log[:40]))
    old = dict(desk.store.files)
    desk.take(opened(log))
    desk.store.files = old
    desk.mirror = SiteMirror(desk.store, origin=SITE, vkey=encode_vkey(SITE, public_octets(KEY)))
    with pytest.raises(Tampered, match=r"site\.mirror\.behind"):
        desk.take(opened(log))


def test_the_key_of_somebody_else_says_nothing(desk: Desk):
    with pytest.raises(Tampered, match=r"log\.note"):
        desk.take(opened(log_of(3), key=Ed25519PrivateKey.generate()))
    with pytest.raises(Refused, match=r"report\.foreign"):
        site_of_report(desk.ledger.records, opened(log_of(3), origin="o/site/x"))
    assert desk.known == 0
