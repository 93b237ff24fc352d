"""Sites come home: what their stations did becomes what the authority knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.golog import build_reader, read_log
from support.sitepair import Pair, findings, provision, report, take, totals

POOL = [f"PL-{number:04d}" for number in range(6)]
OWN = [f"FC-{number:04d}" for number in range(6)]
BORN = [f"EL-{number:04d}" for number in range(4)]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair.make(tmp_path)


def test_a_pool_site_comes_home_and_coming_twice_changes_nothing(pair: Pair, tmp_path: Path):
    site = pair.add_site("pool-1", "pool")
    pair.order("lot", site, POOL)
    pair.send("lot", site)
    provision(site, *POOL[:2])
    assert totals(pair, "lot") == {"consigned": 6}
    path = report(site, tmp_path / "a.report")
    first = take(pair, path)
    assert findings(first) == []
    assert (first.report.outcome, first.settled) == ("taken", 2)
    assert totals(pair, "lot") == {"consigned": 4, "verified": 2}
    with pair.authority() as hq:
        before = hq.ledger.head().size
    again = take(pair, path)
    assert (again.report.outcome, again.settled, findings(again)) == ("old", 0, [])
    with pair.authority() as hq:
        assert hq.ledger.head().size == before
        vkey = hq.records.site("pool-1").vkey
    pair.replay()
    reader = build_reader(tmp_path)
    read_log(reader, pair.hq / "sites" / "pool-1" / "log", vkey)


@pytest.mark.parametrize("origin", ["injected", "device"])
def test_a_site_with_its_own_ca_comes_home_in_two_reports_in_any_order(pair: Pair, tmp_path: Path, origin: str):
    site = pair.add_site("fab", "factory_ca")
    serials = OWN if origin == "injected" else BORN
    pair.order("lot", site, serials, origin=origin)
    pair.send("lot", site)
    provision(site, serials[0], born=origin == "device")
    one = report(site, tmp_path / "1.report")
    with site.open() as own:
        size = own.publish()
    provision(site, *serials[1:3], born=origin == "device")
    two = report(site, tmp_path / "2.report", since=size)
    waits = take(pair, two)
    assert (waits.report.outcome, waits.waiting, waits.size) == ("gap", 1, 0)
    done = take(pair, one)
    assert (done.report.outcome, done.waiting, findings(done)) == ("taken", 0, [])
    rest = {"stock": 3} if origin == "injected" else {"open": 1}
    assert totals(pair, "lot") == {"verified": 3, **rest}
    pair.replay()
