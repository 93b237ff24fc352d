"""``bundle seal`` and ``bundle open`` under real faults: killed, or told EIO or ENOSPC, at their syncs and writes.

After every fault the same command is run again. Then the site has each identity once, as many as left the authority,
and both ledgers replay.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.model.events import Consigned, Received, Requested, decode_entry
from support.bundleworld import DEVICES, ORDER, SITE, Pair, build_pair
from support.ledger import TestClock

BIRTHMARK = str(Path(sys.executable).parent / "birthmark")
CALLS = ("fdatasync", "fsync", "pwrite64", "write", "rename")
EVERY = ("fdatasync", "fsync", "rename")
"""Calls of which each one is struck; of the writes a few are."""
WRITES = 3
KINDS = ("kill", "EIO", "kill", "ENOSPC")
"""They take turns."""
SEAL = ("bundle", "seal", "--order", ORDER, "--site", SITE, "-o", "stick/lot.bundle", "-C", "hq", "--json")
OPEN = ("bundle", "open", "stick/lot.bundle", "-C", "site", "--json")


@dataclass(frozen=True)
class Fault:
    call: str
    number: int
    what: str

    @property
    def option(self) -> str:
        kind = "signal=SIGKILL" if self.what == "kill" else f"error={self.what}"
        return f"inject={self.call}:{kind}:when={self.number}"


def run(place: Path, command: tuple[str, ...], *strace: str) -> subprocess.CompletedProcess[str]:
    whole = [*(("strace", "-f", "-qq", "-e", f"trace={','.join(CALLS)}", *strace) if strace else ()), BIRTHMARK]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [*whole, *command], cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def assigned(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return build_pair(tmp_path_factory.mktemp("pair"), gone=True)


def copied(source: Pair, to: Path) -> Pair:
    pair = source.copy(to)
    for place in (pair.authority, pair.site):
        settings = place / "birthmark.toml"
        settings.write_text(settings.read_text().replace(str(source.root), str(pair.root)))
    return pair


def faults_of(place: Path, command: tuple[str, ...]) -> list[Fault]:
    """Rehearse the command; return a fault for each sync and some writes."""
    log = place / "trace"
    assert run(place, command, "-o", str(log)).returncode == 0
    counts = Counter(re.findall(r"\b(\w+)\(", log.read_text()))
    found: list[Fault] = []
    for call in CALLS:
        step = 1 if call in EVERY else max(1, counts[call] // WRITES)
        for number in range(1, counts[call] + 1, step):
            found.append(Fault(call, number, KINDS[len(found) % len(KINDS)]))
    return found


def strike(source: Pair, command: tuple[str, ...], to: Path, check_after: bool) -> Counter[str]:
    ends: Counter[str] = Counter()
    for number, fault in enumerate(faults_of(copied(source, to / "rehearsal").root, command)):
        pair = copied(source, to / str(number))
        broken = run(pair.root, command, "-o", "/dev/null", "-e", fault.option)
        assert "Traceback" not in broken.stderr, f"{fault}: {broken.stderr[-2000:]}"
        ends["killed" if broken.returncode in (-9, 137) else str(broken.returncode)] += 1
        again = run(pair.root, command)
        assert again.returncode == 0, f"after {fault}: {again.stdout}{again.stderr}"
        if not check_after:
            assert run(pair.root, OPEN).returncode == 0, f"after {fault}"
        check(pair)
        shutil.rmtree(pair.root)
    return ends


def check(pair: Pair) -> None:
    left = sum(event.count for event in events_of(pair.authority) if isinstance(event, Consigned))
    arrived = events_of(pair.site)
    devices = Counter(event.device for event in arrived if isinstance(event, Received))
    assert len(devices) == left == DEVICES - 3
    assert set(devices.values()) == {1}
    assert sum(event.count for event in arrived if isinstance(event, Requested)) == left


def events_of(workspace: Path) -> list[object]:
    ledger = SqliteLedger(workspace / "ledger" / "ledger.db", clock=TestClock())
    try:
        replay_ledger(ledger, progress=lambda count: None)
        return [decode_entry(entry)[0] for _, entry in ledger.entries(0, ledger.head().size)]
    finally:
        ledger.close()


def test_sealing_is_finished_by_the_same_command(assigned: Pair, tmp_path: Path) -> None:
    ends = strike(assigned, SEAL, tmp_path, check_after=False)
    assert {"killed", "5"} <= set(ends), ends


def test_opening_takes_in_every_identity_once(assigned: Pair, tmp_path: Path) -> None:
    carried = copied(assigned, tmp_path / "carried")
    assert run(carried.root, SEAL).returncode == 0
    ends = strike(carried, OPEN, tmp_path, check_after=True)
    assert {"killed", "5"} <= set(ends), ends
