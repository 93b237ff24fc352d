"""Ingest under real faults: killed or told EIO at every sync and rename; then the same file again finishes the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from birthmark.errors import Tampered
from birthmark.model import events as e
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.homecoming import settle
from support.faultline import KILL, strike
from support.forger import Forger
from support.golog import build_reader, read_log
from support.sitepair import Pair, provision, report, take, totals

PROGRAM = """
import sys
from pathlib import Path
from birthmark.errors import BirthmarkError
from birthmark.shell.sites.ingest import ingest_file
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.homecoming import settle

settle._BATCH, settle._KEEP_AFTER = 4, 2  # many small steps
try:
    with open_workspace(Path(sys.argv[1])) as hq:
        ingest_file(hq, Path(sys.argv[2]), processes=1)
except BirthmarkError as problem:
    print(problem.code)
"""
SERIALS = [f"FC-{number:04d}" for number in range(4)]
CALLS = ("fdatasync", "fsync", "rename")
GHOST = "NOBODY"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that has one report of a site with its own CA; two more wait on a stick, one with a lie in it."""
    root = tmp_path_factory.mktemp("ingest") / "world"
    pair = Pair.make(root)
    site = pair.add_site("fab", "factory_ca")
    pair.order("lot", site, SERIALS)
    pair.send("lot", site)
    provision(site, SERIALS[0])
    take(pair, report(site, root / "1.report"))
    with site.open() as own:
        size = own.publish()
    provision(site, *SERIALS[1:3])
    forger = Forger(site)
    lie = e.Drawn(at="2026-11-24T02:10:11.123Z", device=GHOST, station="line1", attempt="none-0001")
    forger.entries.append(e.encode_entry(lie))
    middle = size + 5
    forger.write(root / "2.report", first=size, size=middle)
    forger.write(root / "3.report", first=middle)
    take(pair, root / "3.report")
    (root / "ingest.py").write_text(PROGRAM)
    return root


def state(root: Path) -> tuple[object, ...]:
    pair = Pair.at(root)
    pair.replay()
    with open_workspace(pair.hq, publish=False) as hq:
        site = hq.records.site("fab")
        found = [(item.code, item.device_serial, item.entry) for item in hq.records.findings("fab")]
        states = [hq.records.device(serial).state for serial in SERIALS]
        return site.reported, site.root, site.settled, site.stopped, found, states, totals(pair, "lot")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "_BATCH", 4)
    monkeypatch.setattr(settle, "_KEEP_AFTER", 2)


def ingest(root: Path) -> None:
    """Ingest the second report without any fault."""
    take(Pair.at(root), root / "2.report", processes=1)


def fresh(place: Path, tmp_path: Path, name: str) -> Path:
    copied = tmp_path / name
    shutil.copytree(place, copied)
    return copied


def strokes(place: Path, tmp_path: Path, call: str, fault: str) -> Iterator[tuple[int, Path]]:
    """Yield copies that were struck at the first, second … call of a kind, until one run has fewer of them."""
    for when in range(1, 200):
        root = fresh(place, tmp_path, f"{call}-{when}")
        struck, _ = strike(root / "ingest.py", root / "hq", root / "2.report", call=call, fault=fault, when=when)
        if not struck:
            return
        yield when, root
        shutil.rmtree(root)


@pytest.mark.parametrize(("call", "fault"), [*((call, KILL) for call in CALLS), ("fdatasync", "error=EIO")])
def test_the_same_file_again_finishes_what_was_cut(place: Path, tmp_path: Path, call: str, fault: str):
    whole = fresh(place, tmp_path, "whole")
    ingest(whole)
    expected = state(whole)
    assert expected[0] == expected[2], "everything that is verified is settled"
    assert expected[4] == [("site.entry.unlawful", None, expected[0] - 1)]
    assert expected[6] == {"verified": 3, "stock": 1}
    reader = build_reader(tmp_path)
    count = 0
    for count, root in strokes(place, tmp_path, call, fault):
        ingest(root)
        assert state(root) == expected, f"{fault} at {call} {count}"
        with open_workspace(root / "hq", publish=False) as hq:
            vkey = hq.records.site("fab").vkey
        read_log(reader, root / "hq" / "sites" / "fab" / "log", vkey)
        assert not list((root / "hq" / "sites" / "fab" / "inbox").glob("*.report"))
    assert count >= (3 if call != "rename" else 1)


def test_a_lost_replica_is_made_anew(place: Path, tmp_path: Path):
    whole, lost = fresh(place, tmp_path, "whole"), fresh(place, tmp_path, "lost")
    shutil.rmtree(lost / "hq" / "sites" / "fab" / "replica")
    for root in (whole, lost):
        ingest(root)
    assert state(whole) == state(lost)
    damaged = fresh(place, tmp_path, "damaged")
    (damaged / "hq" / "sites" / "fab" / "replica" / "replica.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    ingest(damaged)
    assert state(whole) == state(damaged)


def test_a_ledger_of_the_authority_from_an_old_backup_takes_nothing_in(place: Path, tmp_path: Path):
    root = fresh(place, tmp_path, "old")
    backup = (root / "hq" / "ledger" / "ledger.db").read_bytes()
    ingest(root)
    for path in (root / "hq" / "ledger").glob("ledger.db*"):
        path.unlink()
    (root / "hq" / "ledger" / "ledger.db").write_bytes(backup)
    with pytest.raises(Tampered, match=r"ledger\.rolled_back"):
        ingest(root)
