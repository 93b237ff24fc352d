"""The page of proofs names tests that exist, and leaves out no directory of tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "proof.md").read_text()
NAMED = {ROOT / name for name in re.findall(r"`(tests/[\w./-]+)`", PAGE)}


def test_every_test_named_on_the_page_exists() -> None:
    assert len(NAMED) > 50
    assert sorted(str(path.relative_to(ROOT)) for path in NAMED if not path.is_file()) == []


def test_every_directory_of_tests_is_named_on_the_page() -> None:
    directories = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(directories) > 10
    assert directories <= {path.parent for path in NAMED}


def test_the_page_says_what_is_not_proven() -> None:
    assert len(re.findall(r"^- \*\*", PAGE.partition("## Not proven")[2], re.MULTILINE)) >= 5
