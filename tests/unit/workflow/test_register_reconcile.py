"""A cloud is compared with the ledger both ways; what it says is a stranger's word, and bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.registerscratch import SqliteScratch
from birthmark.errors import Misconfigured, Unavailable
from birthmark.ports import CloudPage, CloudRecord
from birthmark.workflow.register.fold import BookFold, Scope
from birthmark.workflow.register.pace import Pace
from birthmark.workflow.register.reconcile import Difference, Reconciliation
from support.clouds.memory import MemoryCloud, MemoryService
from support.registerworld import LogWorld, TestTime


@pytest.fixture
def world() -> LogWorld:
    made = LogWorld()
    for number in range(30):
        made.verify(f"Unit-{number:03d}")
    made.verify("x-bad")
    made.issue("y-waiting")
    made.publish()
    return made


def compare(
    world: LogWorld, service: MemoryService, tmp_path: Path, cloud: Any = None, time: TestTime | None = None
) -> tuple[list[Difference], dict[str, int]]:
    book, time = world.book(tmp_path / "book.db"), time or TestTime()
    cloud = cloud or MemoryCloud(service)
    scratch = SqliteScratch(tmp_path)
    fold = BookFold(world.feed(), book, Scope())
    fold.run()
    pace = Pace(600.0, time.clock, time.sleep, lambda count: bytes(count))
    comparison = Reconciliation(cloud, book, fold, scratch, pace, patience_s=60.0)
    found = list(comparison.run())
    scratch.close()
    book.close()
    return found, dict(comparison.counts)


def told(world: LogWorld, service: MemoryService, tmp_path: Path) -> None:
    book = world.book(tmp_path / "book.db")
    world.run(MemoryCloud(service), book, TestTime()).run()
    book.close()


def test_nothing_differs_after_a_run_but_what_is_parked(world: LogWorld, tmp_path: Path) -> None:
    service = MemoryService()
    told(world, service, tmp_path)
    found, counts = compare(world, service, tmp_path)
    assert [(one.kind, one.name, one.state) for one in found] == [("missing", "x-bad", "parked")]
    assert (counts["alike"], counts["held"], counts["expected"]) == (30, 30, 31)


def test_every_kind_of_change_is_named_once(world: LogWorld, tmp_path: Path) -> None:
    service = MemoryService()
    told(world, service, tmp_path)
    records = service.records
    one, two, three = (records[f"unit-00{number}"] for number in (1, 2, 3))
    records["unit-001"] = CloudRecord(one.key, one.name, "blocked", one.certificates)
    records["unit-002"] = CloudRecord(two.key, two.name, two.standing, ("ab" * 32,))
    records["unit-003"] = CloudRecord(three.key, "unit-003", three.standing, three.certificates)
    del records["unit-004"]
    records["zz"] = CloudRecord("zz", "ZZ", "enabled", ())
    records["y-waiting"] = CloudRecord("y-waiting", "y-waiting", "enabled", ())
    found, _ = compare(world, service, tmp_path)
    assert {(one.kind, one.name) for one in found if one.state != "parked"} == {
        ("different", "Unit-001"),
        ("different", "Unit-002"),
        ("different", "unit-003"),
        ("missing", "Unit-004"),
        ("foreign", "ZZ"),
        ("foreign", "y-waiting"),
    }
    whats = {one.name: one.what for one in found}
    assert "blocked, not enabled" in whats["Unit-001"]
    assert "abab" in whats["Unit-002"]
    assert "written" in whats["unit-003"]
    assert whats["y-waiting"].startswith("the ledger has the device"), "let in before it was verified"


def test_what_was_not_told_yet_is_no_difference(world: LogWorld, tmp_path: Path) -> None:
    found, counts = compare(world, MemoryService(), tmp_path)
    assert found == []
    assert counts["waiting"] == 31


def test_throttled_it_waits_and_silence_ends_it(world: LogWorld, tmp_path: Path) -> None:
    service, time = MemoryService(), TestTime()
    told(world, service, tmp_path)
    service.faults = ["throttled", "lost", "", "throttled"]
    found, counts = compare(world, service, tmp_path, time=time)
    assert (len(found), counts["alike"]) == (1, 30)
    assert sum(time.slept) > 6
    service.always = "lost"
    with pytest.raises(Unavailable):
        compare(world, service, tmp_path)


def test_names_that_nobody_gave_are_shown_without_harm(world: LogWorld, tmp_path: Path) -> None:
    service = MemoryService()
    told(world, service, tmp_path)
    names = ["\x1b[2J", "a\0b", "\ud800", "", "x" * 100_000]
    for name in names:
        service.records[f"zz{name}"] = CloudRecord(f"zz{name}", name, "enabled", ())
    found, _ = compare(world, service, tmp_path)
    foreign = [one for one in found if one.kind == "foreign"]
    assert len(foreign) == len(names)
    assert all(one.name.isascii() and one.name.isprintable() and len(one.name) < 300 for one in foreign)


def test_pages_without_end_are_noticed(world: LogWorld, tmp_path: Path) -> None:
    class Stuck(MemoryCloud):
        def page(self, after: str) -> CloudPage:
            return CloudPage([], "same")

    with pytest.raises(Misconfigured, match=r"register\.page\.loop"):
        compare(world, MemoryService(), tmp_path, Stuck(MemoryService()))
