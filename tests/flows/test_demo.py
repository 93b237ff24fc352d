"""The demo is the first impression: it runs, every device passes, every cheat is refused, the audit is clean."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace

BIRTHMARK = str(Path(sys.executable).parent / "birthmark")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [BIRTHMARK, "demo"],
        cwd=place,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "demo-workspace", done.stdout


def test_every_device_passes_and_every_cheat_is_refused(shown: tuple[Path, str]) -> None:
    _, screen = shown
    assert "100 passed, 0 failed" in screen
    assert "50 in secure elements" in screen
    assert screen.count("refused") == 3
    assert "went through" not in screen
    assert re.search(r"violations\s+0\b", screen)


def test_what_the_screen_says_is_on_record(shown: tuple[Path, str]) -> None:
    directory, _ = shown
    report = verify_workspace(directory / "factory", processes=1)
    assert report.errors == 0
    assert report.counts["receipts"] == 100
    assert report.counts["certificates"] == 1050
    assert report.orders["lot-1"]["verified"] == 50
    assert report.orders["lot-2"]["verified"] == 50


def test_a_directory_that_is_not_a_demo_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    done = subprocess.run([BIRTHMARK, "demo", "--directory", "mine"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 3
    assert (tmp_path / "mine" / "precious").exists()


@pytest.mark.parametrize("place", ["tile", "certificate row", "event"])
def test_one_flipped_byte_is_found_and_named(shown: tuple[Path, str], tmp_path: Path, place: str) -> None:
    import shutil

    root = tmp_path / "factory"
    shutil.copytree(shown[0] / "factory", root)
    if place == "tile":
        tile = root / "log" / "tile" / "0" / "001"
        data = bytearray(tile.read_bytes())
        data[700] ^= 1
        tile.write_bytes(data)
    else:
        database = sqlite3.connect(root / "ledger" / "ledger.db")
        table, column, key, at = (
            ("certificate", "records", "intent", 72 * 7 + 10)
            if place != "event"
            else ("entry", "body", "first", 40_000)
        )
        row, blob = database.execute(f"SELECT {key}, {column} FROM {table} WHERE count > 400 LIMIT 1").fetchone()
        data = bytearray(blob)
        data[at] ^= 1
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (bytes(data), row))
        database.commit()
        database.close()
    report = verify_workspace(root, processes=1)
    named = {"tile": "tile/0/001", "certificate row": "table certificate", "event": "entry "}[place]
    assert any(f.severity == "error" and named in f.where and "th-000" in f.what for f in report.findings)
