"""An old copy of the ledger is put back under a log that went on: every command that writes stops before it signs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace

TARGET = "files:out/{device_serial}"
MAKE = ("order", "make", "lot", "--processes", "1")
CREATE = ("order", "create", "more", "--product", "device", "--quantity", "3", "--first", "TH-0900")


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an order that is not made yet."""
    root = tmp_path_factory.mktemp("backup") / "fab"
    make_workspace(root)
    order = ["order", "create", "lot", "--product", "device", "--quantity", "6", "--first", "TH-0001"]
    assert main([*order, "-C", str(root), "--json"]) == 0
    return root


@pytest.fixture
def place(ordered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ordered, tmp_path / "fab")
    for number in range(1, 7):
        (tmp_path / "out" / f"TH-{number:04d}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a command with --json; return its exit code and its last document."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def provision(device_serial: str) -> tuple[str, ...]:
    return ("station", "provision", "--device-serial", device_serial, "--target", TARGET)


def restore(place: Path) -> None:
    """Put the backup in the place of the ledger; keep the newest one aside."""
    (place / "fab" / "ledger").rename(place / "newest")
    shutil.copytree(place / "backup", place / "fab" / "ledger")


def what_is_signed(place: Path) -> tuple[dict[str, bytes], Any, Any]:
    """Return everything a signature could have been added to: log files, signed head, entries."""
    log = {str(path): path.read_bytes() for path in (place / "fab" / "log").rglob("*") if path.is_file()}
    database = sqlite3.connect(place / "fab" / "ledger" / "ledger.db")
    try:
        entries = database.execute("SELECT first, count, body FROM entry ORDER BY first").fetchall()
        return log, database.execute("SELECT * FROM head").fetchall(), entries
    finally:
        database.close()


def refuse_all(place: Path, capsys: pytest.CaptureFixture[str], *commands: tuple[str, ...]) -> None:
    before = what_is_signed(place)
    for command in commands:
        code, document = called(capsys, *command)
        assert (code, document["error"], document["family"]) == (7, "ledger.rolled_back", "Tampered"), command
        assert document["hint"].endswith(".")
        assert document["facts"]["shown"] > document["facts"]["recorded"]
        assert what_is_signed(place) == before, command
    assert called(capsys, "audit", "verify", "fab", "--processes", "1")[0] == 7


def bring_the_newest_back(place: Path, capsys: pytest.CaptureFixture[str], *commands: tuple[str, ...]) -> None:
    shutil.rmtree(place / "fab" / "ledger")
    (place / "newest").rename(place / "fab" / "ledger")
    for command in commands:
        assert called(capsys, *command)[0] == 0, command
    assert verify_workspace(place / "fab", processes=1).errors == 0


def test_order_make_on_an_old_ledger_signs_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old copy knows nothing of the identities that exist already: it would make each a second time."""
    shutil.copytree(place / "fab" / "ledger", place / "backup")
    assert called(capsys, *MAKE)[1]["made"] == 6
    restore(place)
    refuse_all(place, capsys, MAKE, CREATE, MAKE)
    bring_the_newest_back(place, capsys, MAKE, CREATE)


def test_station_on_an_old_ledger_hands_out_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old copy still holds keys that were drawn and erased since: nobody gets one of them again."""
    assert called(capsys, *MAKE)[0] == 0
    shutil.copytree(place / "fab" / "ledger", place / "backup")
    assert called(capsys, *provision("TH-0001"))[1]["status"] == "pass"
    restore(place)
    shutil.copytree(place / "out" / "TH-0001", place / "kept")
    shutil.rmtree(place / "out" / "TH-0001")
    (place / "out" / "TH-0001").mkdir()
    many = place / "list.txt"
    many.write_text("TH-0003\nTH-0004\n")
    run = ("station", "run", "--heads", "2", "--devices", str(many), "--target", TARGET)
    rework = ("device", "rework", "TH-0001", "--reason", "a test")
    refuse_all(place, capsys, provision("TH-0001"), provision("TH-0002"), run, rework)
    assert not [path for path in (place / "out").rglob("*") if path.is_file()]
    shutil.rmtree(place / "out" / "TH-0001")
    (place / "kept").rename(place / "out" / "TH-0001")
    bring_the_newest_back(place, capsys, provision("TH-0001"), provision("TH-0002"), run)
