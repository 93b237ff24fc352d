"""The demo of the line: four kinds of device pass, a modem that lies does not, and pictures show what people saw."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from birthmark.adapters.audit.verify import verify_workspace

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo_line.py"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("line")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=place, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "demo-line", done.stdout


def test_the_screen_tells_what_the_operator_saw(shown: tuple[Path, str]) -> None:
    _, screen = shown
    assert re.findall(r"(?:OpenHTF|operator's view) +([A-Z]+)", screen) == ["PASS", "PASS", "FAIL", "PASS", "PASS"]
    assert "target.write.not_kept" in screen
    assert "0 findings" in screen


def test_pictures_hold_the_verdicts_and_ask_nobody_for_anything(shown: tuple[Path, str]) -> None:
    root, _ = shown
    for name, word in (
        ("esp", "signed"),
        ("modem-lies", "target.write.not_kept"),
        ("modem", "signed"),
        ("chip", "signed"),
    ):
        picture = root / "pictures" / f"{name}.svg"
        text = "".join(ElementTree.parse(picture).getroot().itertext())  # noqa: S314  our own file
        assert word in text, name
        assert re.findall(r"url\(http|@import", picture.read_text()) == []


def test_what_was_made_holds(shown: tuple[Path, str]) -> None:
    root, _ = shown
    report = verify_workspace(root / "bench")
    assert report.errors == 0
    assert sum(order["verified"] for order in report.orders.values()) == 4
    with sqlite3.connect(root / "bench" / "ledger" / "ledger.db") as database:
        states = database.execute("SELECT state, count(*) FROM device GROUP BY state").fetchall()
    assert states == [("verified", 4)]
