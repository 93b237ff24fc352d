"""An order whose keys a Ray cluster makes, through the commands, with a cluster that the command starts itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace


def test_an_order_made_by_a_cluster_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_workspace(tmp_path / "fab")
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", str(tmp_path / "fab"))
    create = ["order", "create", "lot", "--product", "device", "--quantity", "1300", "--first", "TH-0001"]
    assert main([*create, "--json"]) == 0
    capsys.readouterr()
    make = ["order", "make", "lot", "--processes", "1", "--json"]
    assert main([*make, "--address", "10.0.0.1:6379"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == "engine.address"
    assert main([*make, "--engine", "nobody"]) == 2
    capsys.readouterr()
    assert main([*make, "--engine", "ray"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["made"] == 1300
    assert verify_workspace(tmp_path / "fab", processes=1).findings == []
