"""The page of targets and laws speaks of all that are tried today, and of no broken one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from support.targets import DEVICES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import make_matrix  # noqa: E402

PAGE = make_matrix.PAGE.read_text()


def test_every_kind_and_every_law_stands_on_the_page() -> None:
    """Run `make matrix` after a change."""
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE) == sorted(DEVICES)
    assert re.findall(r"^\d+\. (.+)$", PAGE, re.MULTILINE) == [make_matrix.sentence(law) for law in make_matrix.laws()]


def test_no_cell_is_broken_or_missing() -> None:
    assert make_matrix.FAILED not in PAGE
    assert "| ? |" not in PAGE
