"""The real program under real faults: killed, or told EIO or ENOSPC, at its syncs and writes (strace injects them).

After every fault the same command is run again; then each device has exactly one identity and the audit finds nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace

DEVICES = 600
CALLS = ("fdatasync", "fsync", "pwrite64", "rename", "write")
KINDS = ("kill", "EIO", "ENOSPC")
EVERY = ("fdatasync", "fsync", "rename")
"""Calls of which each one is killed at and, in turn, told EIO or ENOSPC. Of the writes between them a sample meets one
of the three; `make faults` takes all of all."""
SAMPLE = 7
ENVIRONMENT = {**os.environ, "BIRTHMARK_PASSPHRASE": "fault-passphrase", "COLUMNS": "200"}
BIRTHMARK = str(Path(sys.executable).parent / "birthmark")


@dataclass(frozen=True)
class Fault:
    call: str
    number: int
    what: str

    @property
    def option(self) -> str:
        kind = "signal=SIGKILL" if self.what == "kill" else f"error={self.what}"
        return f"inject={self.call}:{kind}:when={self.number}"

    def __str__(self) -> str:
        return f"{self.what}-at-{self.call}-{self.number}"


def run(
    *command: str, cwd: Path, fault: Fault | None = None, log: Path | None = None
) -> subprocess.CompletedProcess[str]:
    traced = ["strace", "-f", "-qq", "-o", str(log or "/dev/null"), "-e", f"trace={','.join(CALLS)}"]
    if fault is not None:
        traced += ["-e", fault.option]
    whole = [*traced, BIRTHMARK, *command] if fault is not None or log is not None else [BIRTHMARK, *command]
    return subprocess.run(whole, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


def must(*command: str, cwd: Path) -> None:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a workspace ``w`` that has an open order, and an empty device."""
    place = tmp_path_factory.mktemp("ordered")
    must("init", "w", "--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999", cwd=place)
    must("ceremony", "run", "w/ceremony.toml", "-C", "w", cwd=place)
    create = ("order", "create", "lot", "--product", "device", "--quantity", str(DEVICES), "--first", "th-0001")
    must(*create, "-C", "w", cwd=place)
    (place / "dut" / "th-0007").mkdir(parents=True)
    return place


@pytest.fixture(scope="module")
def made(ordered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every identity made."""
    place = tmp_path_factory.mktemp("made") / "place"
    shutil.copytree(ordered, place)
    must(*MAKE, cwd=place)
    return place


MAKE = ("order", "make", "lot", "--processes", "1", "-C", "w")
PROVISION = ("station", "provision", "--device-serial", "th-0007", "--target", "files:dut/th-0007", "-C", "w")


def faults_of(command: tuple[str, ...], place: Path) -> list[Fault]:
    """Return the faults for the calls that the busiest thread of ``command`` really makes."""
    log = place.parent / f"{place.name}.trace"
    done = run(*command, cwd=place, log=log)
    assert done.returncode == 0, done.stdout + done.stderr
    counts: dict[tuple[str, str], int] = {}
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+)\s+(\w+)\(", line)
        if match and match[2] in CALLS:
            counts[match[1], match[2]] = counts.get((match[1], match[2]), 0) + 1
    found = []
    for call in CALLS:
        total = max((count for (_, name), count in counts.items() if name == call), default=0)
        numbers = range(1, total + 1)
        if os.environ.get("BIRTHMARK_FAULTS") == "all":
            found += [Fault(call, number, what) for number in numbers for what in KINDS]
        elif call in EVERY:
            found += [Fault(call, number, what) for number in numbers for what in ("kill", KINDS[1 + number % 2])]
        else:
            points = sorted({1 + step * (total - 1) // (SAMPLE - 1) for step in range(SAMPLE)}) if total else []
            found += [Fault(call, number, KINDS[at % 3]) for at, number in enumerate(points)]
    return found


def check(place: Path, *, verified: int) -> None:
    report = verify_workspace(place / "w", processes=1)
    assert [f"{f.code} {f.what}" for f in report.findings if f.severity == "error"] == []
    totals = report.orders["lot"]
    assert totals["ordered"] == DEVICES
    assert totals.get("verified", 0) == verified
    assert totals.get("stock", 0) == DEVICES - verified


def survive(place: Path, command: tuple[str, ...], fault: Fault, *, verified: int) -> str:
    """Run with the fault, run again without, check; return how the faulty run ended."""
    broken = run(*command, cwd=place, fault=fault)
    assert "Traceback" not in broken.stderr, f"{fault}: {broken.stderr[-2000:]}"
    killed = broken.returncode in (-9, 137)
    assert killed == (fault.what == "kill") or broken.returncode in (0, 5), (
        f"{fault}: {broken.returncode} {broken.stderr}"
    )
    again = run(*command, cwd=place)
    assert again.returncode == 0, f"after {fault}: {again.stderr}"
    check(place, verified=verified)
    return "killed" if killed else str(broken.returncode)


def ends(source: Path, command: tuple[str, ...], tmp_path: Path, *, verified: int) -> set[str]:
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(source, rehearsal)
    faults = faults_of(command, rehearsal)
    assert {fault.what for fault in faults} == {"kill", "EIO", "ENOSPC"}
    found = set()
    for fault in faults:
        place = tmp_path / str(fault)
        shutil.copytree(source, place)
        found.add(survive(place, command, fault, verified=verified))
        shutil.rmtree(place)
    return found


def test_order_make_loses_and_doubles_nothing(ordered: Path, tmp_path: Path) -> None:
    assert {"killed", "5"} <= ends(ordered, MAKE, tmp_path, verified=0)


def test_station_provision_finishes_resumes_or_voids(made: Path, tmp_path: Path) -> None:
    assert {"killed", "5"} <= ends(made, PROVISION, tmp_path, verified=1)
