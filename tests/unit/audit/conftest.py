"""One lawful workspace for all tests of the audit; each test gets a copy to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from birthmark.adapters.audit.findings import Finding
from birthmark.adapters.audit.verify import Report, verify_workspace
from support.make_ledger import LedgerMaker, make_story
from support.make_sites import World, make_world


@dataclass(slots=True)
class Story:
    """A copy of the workspace and the maker that has its keys."""

    root: Path
    maker: LedgerMaker

    def audit(self, **options: object) -> Report:
        return verify_workspace(self.root, processes=1, **options)  # type: ignore[arg-type]

    def found(self, code: str) -> list[Finding]:
        """Return the findings of one code; there must be some."""
        findings = [finding for finding in self.audit().findings if finding.code == code]
        assert findings, f"{code} was not found"
        return findings


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Story:
    maker = make_story(tmp_path_factory.mktemp("story") / "workspace")
    return Story(maker.close(), maker)


@pytest.fixture
def story(original: Story, tmp_path: Path) -> Story:
    return Story(Path(shutil.copytree(original.root, tmp_path / "workspace")), original.maker)


@pytest.fixture(scope="session")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """An authority and its sites, closed and published; nobody changes it."""
    world = make_world(tmp_path_factory.mktemp("world"))
    world.close()
    return world


@pytest.fixture
def world_root(whole_world: World, tmp_path: Path) -> Path:
    """Return a copy of that world to damage."""
    return Path(shutil.copytree(whole_world.root, tmp_path / "world"))


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """Return a function that flips one bit of a file."""

    def flip_one(path: Path, at: int) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x01
        path.write_bytes(data)

    return flip_one
