"""An authority and its sites are audited, each alone; what contradicts the record is found and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import Report, verify_workspace
from support.make_sites import FACTORY, LIVE, POOL, World, make_world


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    world.close()
    return world


@pytest.fixture
def root(whole_world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_world.root, tmp_path / "world"))


def _audit(root: Path) -> Report:
    return verify_workspace(root, processes=1)


def test_a_lawful_authority_has_no_findings(root: Path) -> None:
    report = _audit(root / "authority")
    assert (report.findings, report.totals) == ([], {})
    assert report.orders["sealed"] == {
        "ordered": 12, "open": 0, "stock": 1, "consigned": 8, "in_progress": 0, "verified": 2, "failed": 0,
        "scrapped": 1,
    }  # fmt: skip
    assert report.orders["fac"]["verified"] == 3
    assert report.counts["receipts"] == 3 + 2 + 2
    assert report.counts["settled"] == 5 + 3 + 3


@pytest.mark.parametrize("site", [FACTORY, POOL, LIVE])
def test_a_lawful_site_is_audited_alone(root: Path, site: str) -> None:
    report = _audit(root / site)
    assert (report.findings, report.totals) == ([], {})
    assert report.counts["receipts"] >= 2
