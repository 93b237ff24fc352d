"""The page of attackers names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`(tests/[\w./-]+)::(\w+)`", (ROOT / "docs" / "attacks.md").read_text())


def test_every_test_on_the_page_exists() -> None:
    assert len(NAMED) > 50
    missing = [f"{path}::{test}" for path, test in NAMED if f"def {test}(" not in (ROOT / path).read_text()]
    assert missing == []
