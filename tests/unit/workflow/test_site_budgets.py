"""What ten thousand receipts, and ten thousand identities of a bundle, may cost: counted, never timed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from birthmark.model import events
from birthmark.shell.bench import bundle as bundlebench
from birthmark.shell.bench import ingest as ingestbench
from birthmark.shell.bench.sitelog import ENTRIES_A_RECEIPT
from birthmark.shell.throwaway import throw_away_workspace
from birthmark.workflow.homecoming import settle, siteauthority

DEVICES = 1024


class Counts(Counter[str]):
    """How often each thing was done while counting was on."""

    on = False

    def note(self, what: str) -> None:
        if self.on:
            self[what] += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def per_10k(self, what: str) -> float:
        return self[what] * 10_000 / DEVICES


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    found = Counts()

    class Counting(sqlite3.Connection):
        def execute(self, query: str, *values: Any) -> Any:
            found.note("statements")
            found.note(query.partition(" ")[0])
            return super().execute(query, *values)

        def executemany(self, query: str, *rows: Any) -> Any:
            found.note("statements")
            return super().executemany(query, *rows)

    def decode(entry: bytes) -> Any:
        found.note("decodes")
        return events.decode_entry(entry)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Counting))
    monkeypatch.setattr(settle, "decode_entry", decode)
    monkeypatch.setattr(siteauthority, "decode_entry", decode)
    return found


def test_ten_thousand_receipts_come_home(counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each entry is decoded once; statements and commits belong to batches and chunks, not to devices."""
    ingest = ingestbench.ingest_file

    def counted(*arguments: Any, **named: Any) -> Any:
        with counts.counting():
            return ingest(*arguments, **named)

    monkeypatch.setattr(ingestbench, "ingest_file", counted)
    with throw_away_workspace(tmp_path) as workspace:
        ingestbench._one(workspace, 0, DEVICES, 1, lambda count: None)
    assert counts.per_10k("decodes") <= 10_000 * ENTRIES_A_RECEIPT + 200
    assert counts.per_10k("statements") <= 2_500
    assert counts.per_10k("COMMIT") <= 60


def test_ten_thousand_identities_of_a_bundle_are_taken_in(counts: Counts, tmp_path: Path):
    """Statements and commits belong to chunks; a commit holds eight of them."""
    with throw_away_workspace(tmp_path) as authority:
        bundlebench._prepare(authority, DEVICES, lambda count: None)
        bundle = authority.root.parent / "bundle"
        bundlebench._seal(authority.root, bundle)
        with counts.counting():
            bundlebench._open(authority.root, bundle)
    assert counts.per_10k("statements") <= 2_000
    assert counts.per_10k("COMMIT") <= 60
