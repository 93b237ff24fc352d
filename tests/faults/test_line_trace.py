"""A station that cannot store its trace passes no device: a disk that is full at each step, or read-only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.model.events import decode_entry
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace

PAGE = 4096
DISK_MB = 24
BORN, POOLED = "EL-0001", "TH-0001"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trace")
    make_workspace(place / "fab")
    common = ["--quantity", "8", "--product", "device", "-C", str(place / "fab"), "--json"]
    assert main(["order", "create", "lot1", "--first", POOLED, *common]) == 0
    assert main(["order", "create", "lot2", "--first", BORN, "--key-origin", "device", *common]) == 0
    assert main(["order", "make", "lot1", "--processes", "1", "-C", str(place / "fab"), "--json"]) == 0
    return place / "fab"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of memory; what can be full here is the workspace, never the device."""
    assert os.geteuid() == 0, "this test mounts a file system: run it as root"
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fresh(made: Path, disk: Path, name: str) -> Path:
    """Return a new copy of the workspace, alone on the disk, and an empty device."""
    for old in disk.iterdir():
        shutil.rmtree(old)
    shutil.copytree(made, disk / name)
    return disk / name


def leave(disk: Path, pages: int) -> Path:
    """Fill the disk up to so many free pages; return the ballast."""
    ballast = disk / "ballast"
    ballast.mkdir()
    free = os.statvfs(disk)
    with open(ballast / "file", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, (free.f_bavail - pages) * free.f_frsize)
    return ballast


def provision(
    capsys: pytest.CaptureFixture[str], fab: Path, serial: str, out: Path
) -> tuple[int, list[dict[str, Any]], str]:
    (out / serial).mkdir(parents=True, exist_ok=True)
    born = "?key=born" if serial.startswith("EL") else ""
    capsys.readouterr()
    command = ["station", "provision", "--device-serial", serial, "--target", f"files:{out}/{serial}{born}"]
    code = main([*command, "-C", str(fab), "--json"])
    told = capsys.readouterr().out
    return code, [json.loads(line) for line in told.splitlines()], told


def verified(fab: Path, serial: str) -> bool:
    with open_workspace(fab, publish=False) as workspace:
        kinds = [
            type(event)
            for _, entry in workspace.ledger.entries(0, workspace.ledger.head().size)
            for event, _ in [decode_entry(entry)]
            if getattr(event, "device", None) == serial
        ]
        assert kinds.count(e.Verified) <= 1
        assert kinds.count(e.Issued) <= 1
        assert kinds.count(e.Failed) == 0
        return workspace.records.device(serial).state is DeviceState.VERIFIED


@pytest.mark.parametrize(("serial", "step"), [(POOLED, 1), (BORN, 3)], ids=["pool", "born"])
def test_a_disk_that_is_full_at_any_step_passes_nothing_and_loses_nothing(
    made: Path, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], serial: str, step: int
) -> None:
    codes: dict[str, int] = {}
    pages = 0
    while True:
        fab, out = fresh(made, disk, f"fab{pages}"), tmp_path / f"out-{pages}"
        ballast = leave(disk, pages)
        code, lines, told = provision(capsys, fab, serial, out)
        shutil.rmtree(ballast)
        if code == 0:
            break
        error = lines[-1]
        codes[error["error"]] = codes.get(error["error"], 0) + 1
        assert (code, error["family"]) == (5, "StationFault"), told
        assert '"status": "pass"' not in told
        assert "DO NOT SHIP" in error["hint"]
        was = verified(fab, serial)
        code, lines, _ = provision(capsys, fab, serial, out)
        assert (code, lines[-1]["status"]) == (0, "already" if was else "pass")
        assert verified(fab, serial)
        pages += step
    assert lines[-1]["status"] == "pass"
    assert verified(fab, serial)
    assert pages >= 4
    assert len(codes) >= 2, codes


def test_a_workspace_that_is_read_only_begins_nothing(
    made: Path, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fab, out = fresh(made, disk, "fab"), tmp_path / "out"
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        code, lines, told = provision(capsys, fab, POOLED, out)
        assert (code, lines[-1]["family"]) == (5, "StationFault"), told
        assert "DO NOT SHIP" in lines[-1]["hint"]
        assert list((out / POOLED).iterdir()) == []
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert provision(capsys, fab, POOLED, out)[0] == 0


def test_a_run_stops_at_the_first_device_whose_trace_cannot_be_kept(
    made: Path, disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fab, out = fresh(made, disk, "fab"), tmp_path / "out"
    serials = [f"TH-{number:04d}" for number in range(1, 9)]
    for serial in serials:
        (out / serial).mkdir(parents=True)
    (tmp_path / "list.txt").write_text("\n".join(serials))
    ballast = leave(disk, 14)
    target = f"files:{out}/{{device_serial}}"
    command = ["station", "run", "--devices", str(tmp_path / "list.txt"), "--target", target, "-C", str(fab)]
    capsys.readouterr()
    assert main([*command, "--heads", "2"]) == 5
    streams = capsys.readouterr()
    told = streams.out + streams.err
    assert "DO NOT SHIP" in told
    shutil.rmtree(ballast)
    passed = {line.split()[1].rstrip(":") for line in told.splitlines() if line.startswith("PASS")}
    assert len(passed) <= 6
    assert all(verified(fab, serial) for serial in passed)
    assert main([*command, "--heads", "2"]) == 0
    assert all(verified(fab, serial) for serial in serials)
