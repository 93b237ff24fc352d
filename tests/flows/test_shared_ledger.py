"""A workspace whose ledger is a PostgreSQL database, used from two machines: the commands, a race, and the audit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.postgres import PostgresServer

BIRTHMARK = str(Path(sys.executable).parent / "birthmark")
SECRET = "database-password-7c1e"


def start(*command: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "BIRTHMARK_PASSPHRASE": "test-passphrase", "DB_PASSWORD": SECRET}
    return subprocess.Popen(
        [BIRTHMARK, *command], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*command: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    process = start(*command, "--json", cwd=cwd)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, (command, out, err)
    assert SECRET not in out + err
    document: dict[str, Any] = json.loads((out if code == 0 else out or err).splitlines()[-1])
    return document


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer) -> Path:
    """``a`` and ``b``: the workspace on two machines, each with its own log files and key runs."""
    url = f"postgres:{postgres.conninfo()}"
    options = ("--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999")
    run("init", "a", *options, "--ledger", url, "--ledger-password", "env:DB_PASSWORD", cwd=tmp_path)
    run("ceremony", "run", "a/ceremony.toml", "-C", "a", cwd=tmp_path)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path


def order(place: Path, name: str, quantity: int, at: str = "a") -> None:
    first = f"{name.upper()}-0001"
    run("order", "create", name, "--product", "device", "--quantity", str(quantity), "--first", first, "-C", at,
        cwd=place)  # fmt: skip


def test_what_one_machine_makes_another_hands_out_and_the_audit_reads(place: Path) -> None:
    order(place, "lot", 600)
    assert run("order", "make", "lot", "--processes", "1", "-C", "b", cwd=place)["made"] == 600
    for at, device in (("a", "LOT-0001"), ("b", "LOT-0600")):
        (place / device).mkdir()
        target = f"files:{device}"
        run("station", "provision", "--device-serial", device, "--target", target, "-C", at, cwd=place)
    # Machine a shows in its files what b recorded meanwhile.
    assert run("order", "make", "lot", "--processes", "1", "-C", "a", cwd=place)["made"] == 0
    assert run("ledger", "replay", "-C", "a", cwd=place)["tables"]["device"] == 600
    assert not (place / "a" / "ledger" / "ledger.db").exists()
    copied = run("ledger", "export", "--sqlite", "a/ledger/ledger.db", "-C", "a", cwd=place)
    assert copied["tables"]["vault"] == 2
    again = run("ledger", "export", "--sqlite", "a/ledger/ledger.db", "-C", "a", cwd=place, code=3)
    assert again["error"] == "ledger.file_exists"
    report = run("audit", "verify", "a", cwd=place)
    assert report["findings"] == []
    assert (place / "a" / "ledger" / "ledger.db").stat().st_mode & 0o077 == 0


def test_two_machines_race_for_one_order_and_nothing_is_made_twice(place: Path) -> None:
    order(place, "lot", 2048)
    racing = [start("order", "make", "lot", "--processes", "1", "-C", at, "--json", cwd=place) for at in ("a", "b")]
    outputs = [process.communicate(timeout=120) for process in racing]
    made = sum(json.loads(out)["made"] for (out, _), process in zip(outputs, racing, strict=True)
               if process.returncode == 0)  # fmt: skip
    assert sorted(process.returncode for process in racing) in ([0, 0], [0, 6]), outputs
    assert made == 2048
    assert run("order", "make", "lot", "--processes", "1", "-C", "b", cwd=place)["made"] == 0
    run("ledger", "export", "--sqlite", "b/ledger/ledger.db", "-C", "a", cwd=place)
    report = run("audit", "verify", "b", cwd=place)
    assert report["findings"] == []


def test_a_password_in_the_settings_is_refused_and_not_shown(tmp_path: Path) -> None:
    for url in (f"postgres:host=/nowhere password={SECRET}", f"postgres://u:{SECRET}@db.example/x"):
        told = run("init", "w", "--maker", "Acme", "--ledger", url, cwd=tmp_path, code=2)
        assert told["error"] == "settings.ledger.password"
        assert not (tmp_path / "w").exists()


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    url = f"postgres:host={tmp_path} dbname=x"
    assert run("init", "w", "--maker", "Acme", "--ledger", url, cwd=tmp_path, code=6)["error"] == "ledger.unreachable"
