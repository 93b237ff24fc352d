"""Taking in a manifest and binding a chip under real faults: killed or told EIO at every sync; then once more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from support.chipvendor import ChipVendor
from support.faultline import KILL, strike

PROGRAM = """
import sys
from birthmark.shell.cli.main import main

code = main(sys.argv[2:])
sys.exit(code if code not in (5, 6) else 0)  # a disk that fails is told, and is no defect of the program
"""
CHIPS = 200
LATEST = 5
"""The syncs after those are of the published log, which has tests of its own."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace, a manifest of several chunks, and a unit with one of its chips."""
    root = tmp_path_factory.mktemp("preload") / "world"
    make_workspace(root / "fab")
    vendor = ChipVendor()
    vendor.settle(root / "fab")
    chips = vendor.chips(CHIPS)
    vendor.manifest(root / "m.json", chips)
    chips[0].put_into(root / "PR-0001")
    order = ["--product", "device", "--quantity", "1", "--first", "PR-0001", "--key-origin", "preloaded"]
    assert main(["order", "create", "lot", *order, "-C", str(root / "fab")]) == 0
    (root / "run.py").write_text(PROGRAM)
    return root


def state(root: Path) -> tuple[object, ...]:
    report = verify_workspace(root / "fab", processes=1)
    assert report.errors == 0, report.findings
    assert main(["ledger", "replay", "-C", str(root / "fab")]) == 0
    with open_workspace(root / "fab", publish=False) as opened:
        return opened.records.preload_counts(), str(opened.records.device("PR-0001").state)


def commands(root: Path) -> list[list[str]]:
    fab = ["-C", str(root / "fab")]
    unit = ["--device-serial", "PR-0001", "--target", f"files:{root}/PR-0001"]
    return [["preload", "ingest", "microchip", str(root / "m.json"), *fab], ["station", "bind", *unit, *fab]]


@pytest.mark.parametrize(("call", "fault"), [("fdatasync", KILL), ("fdatasync", "error=EIO")])
def test_nothing_is_half_taken_in_or_half_bound(place: Path, tmp_path: Path, call: str, fault: str) -> None:
    expected = [([("microchip", CHIPS, 0)], "ordered"), ([("microchip", CHIPS, 1)], "verified")]
    before: tuple[object, ...] = ([], "ordered")
    seen: set[tuple[object, ...]] = set()
    for number, after in enumerate(expected):
        for when in range(1, LATEST):
            root = tmp_path / f"{number}-{when}"
            shutil.copytree(place, root)
            for done in commands(root)[:number]:
                assert main(done) == 0
            text = (root / "fab" / "birthmark.toml").read_text()
            (root / "fab" / "birthmark.toml").write_text(text.replace(str(place), str(root)))
            struck, _ = strike(root / "run.py", "run", *commands(root)[number], call=call, fault=fault, when=when)
            if not struck:
                shutil.rmtree(root)
                break
            left = state(root)
            assert left in (before, after), f"{fault} at {call} {when}"
            seen.add((number, left == after))
            assert main(commands(root)[number]) == 0
            assert state(root) == after
            shutil.rmtree(root)
        before = after
    if fault == KILL:
        assert {(0, False), (0, True), (1, False), (1, True)} <= seen, "cut before and after each commit"
    else:
        assert {(0, False), (1, False)} <= seen
