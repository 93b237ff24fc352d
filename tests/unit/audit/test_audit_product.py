"""The audit of what the product itself made, through the command line."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from birthmark.shell.cli.main import main
from birthmark.shell.orders.bulk import make_order
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("product") / "works"
    make_workspace(root)
    create = [
        "order",
        "create",
        "lot",
        "--product",
        "device",
        "--quantity",
        "30",
        "--first",
        "SN-0001",
        "-C",
        str(root),
    ]
    assert main(create) == 0
    with open_workspace(root) as workspace:
        assert make_order(workspace, workspace.records.order("lot"), processes=1, progress=lambda _: None) == 30
    return root


def _json(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_product_workspace_passes(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(product), "--json", "--processes", "1"]) == 0
    (report,) = _json(capsys)
    assert report["ok"] is True
    assert report["findings"] == []
    counts = report["counts"]
    assert isinstance(counts, dict)
    assert (counts["certificates"], counts["distinct_keys"], counts["signatures"]) == (30, 30, 32)


def test_report_for_people_names_the_numbers(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(product), "--processes", "1"]) == 0
    shown = capsys.readouterr().out
    assert "every invariant holds" in shown
    assert "30 stock" in shown


def test_device_is_proven_and_checked_without_the_workspace(
    product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "SN-0007.proof"
    assert main(["audit", "prove", "SN-0007", "-C", str(product), "-o", str(file), "--json"]) == 0
    (made,) = _json(capsys)
    assert main(["audit", "check-proof", str(file), "--vkey", str(made["vkey"]), "--json"]) == 0
    (checked,) = _json(capsys)
    assert checked["device_serial"] == "SN-0007"
    file.write_bytes(file.read_bytes().replace(b"SN-0007", b"SN-0008", 1))
    assert main(["audit", "check-proof", str(file), "--vkey", str(made["vkey"]), "--json"]) == 7


def test_prove_refuses_what_is_not_there_by_name(
    product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = (
        (["prove", "NOBODY", "-C", str(product), "-o", str(tmp_path / "x"), "--json"], 2, "audit.prove.device"),
        (["prove", "SN-0001", "-C", str(product), "-o", str(tmp_path / "no/x"), "--json"], 5, "storage.missing"),
        (["check-proof", str(tmp_path / "none"), "--vkey", "x", "--json"], 2, "file.missing"),
        (["verify", str(product), "--processes", "0", "--json"], 2, "audit.processes"),
        (["verify", str(tmp_path), "--json"], 2, "audit.workspace.missing"),
    )
    for arguments, code, name in cases:
        assert main(["audit", *arguments]) == code
        (problem,) = _json(capsys)
        assert problem["error"] == name


def test_one_changed_row_fails_with_the_exit_code_of_tampering(
    product: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = sqlite3.connect(product / "ledger/ledger.db", isolation_level=None)
    database.execute("UPDATE device SET place = 9 WHERE device_serial = 'SN-0005'")
    database.close()
    try:
        assert main(["audit", "verify", str(product), "--json", "--processes", "1"]) == 7
        report, problem = _json(capsys)
        assert problem["error"] == "audit.findings"
        findings = report["findings"]
        assert isinstance(findings, list)
        assert [finding["device_serial"] for finding in findings] == ["SN-0005"]
        assert main(["audit", "verify", str(product), "--processes", "1"]) == 7
        assert "SN-0005" in capsys.readouterr().out
    finally:
        database = sqlite3.connect(product / "ledger/ledger.db", isolation_level=None)
        database.execute("UPDATE device SET place = 4 WHERE device_serial = 'SN-0005'")
        database.close()
