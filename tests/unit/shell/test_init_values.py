"""What a new workspace still lacks is told when it is made, not when the first order is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from birthmark.shell.cli.main import main


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRTHMARK_PASSPHRASE", "a passphrase of a test")


def test_values_that_the_profile_needs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "a"), "--maker", "Acme", "--profile", "tls-client"]) == 0
    said = capsys.readouterr().out
    assert "needed by the profile before the first order: pen\n" in said
    assert "[products.device.values]" in (tmp_path / "a" / "birthmark.toml").read_text()


def test_nothing_is_missing_once_all_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "init",
        str(tmp_path / "a"),
        "--maker",
        "Acme",
        "--profile",
        "tls-client",
        "--value",
        "pen=99999",
        "--json",
    ]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["missing_values"] == []
