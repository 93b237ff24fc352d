"""The demo of the cloud: Microsoft's client is let in as each device, and what was changed at the cloud is found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo_cloud.py"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("cloud")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=place, env={**os.environ, "COLUMNS": "120"}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "demo-cloud", done.stdout


def test_every_device_was_let_in_and_the_stolen_one_no_more(shown: tuple[Path, str]) -> None:
    _, screen = shown
    assert "possession proven" in screen
    assert re.search(r"assigned to a hub +50\b", screen)
    assert re.search(r"th-000003, afterwards: (?!assigned)\S", screen)


def test_fifty_changed_records_are_named_and_mended(shown: tuple[Path, str]) -> None:
    _, screen = shown
    assert "100 expected, 60 alike, 0 not told yet, 50 differences" in screen
    assert "40 devices are due again" in screen
    assert "100 expected, 100 alike, 0 not told yet, 0 differences" in screen


def test_another_cloud_holds_the_same_devices(shown: tuple[Path, str]) -> None:
    _, screen = shown
    assert re.search(r"^aws: \d+ records, 100 expected, 100 alike, 0 not told yet, 0 differences", screen, re.MULTILINE)


def test_what_the_clouds_were_told_is_in_a_log_without_findings(shown: tuple[Path, str]) -> None:
    root, screen = shown
    assert "0 findings" in screen
    assert verify_workspace(root / "factory").errors == 0
