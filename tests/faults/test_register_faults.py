"""The offline day: devices made without a network are registered afterwards, through storms and two SIGKILLs.

The cloud is the emulated DPS with real TLS: it throttles in storms, does calls whose answers get lost, and stops in the
middle of bulk calls. In the end its records are compared with the ledger one by one. ``make register-faults`` runs
10,000 devices.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.shell.bench.verified import make_verified
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.testing.dps import EmulatedDps, FaultPlan
from birthmark.workflow.handout import stored_certificate
from support.registerchild import SkippingClock, start_run

DEVICES = int(os.environ.get("BIRTHMARK_REGISTER_DEVICES", "300"))
SEED = int(os.environ.get("BIRTHMARK_REGISTER_SEED", "1"))
UNVERIFIED = 40
LONGEST_S = 120 + DEVICES / 5
STORMS = (
    FaultPlan(throttled=0.8),
    FaultPlan(lost=0.08, throttled=0.05),
    FaultPlan(half_bulk=0.2, lost=0.03),
    FaultPlan(),
)

LAST_STORM = FaultPlan(seed=SEED, throttled=0.2, lost=0.03, half_bulk=0.05)


@pytest.fixture
def fab(tmp_path: Path) -> Path:
    """A workspace with verified devices, and some that wait for their verification."""
    make_workspace(tmp_path / "fab")
    with open_workspace(tmp_path / "fab") as workspace:
        make_verified(workspace, DEVICES)
    options = [
        "--product",
        "device",
        "--quantity",
        str(UNVERIFIED),
        "--first",
        "wait-0001",
        "-C",
        str(tmp_path / "fab"),
    ]
    assert main(["order", "create", "waiting", *options, "--json"]) == 0
    assert main(["order", "make", "waiting", "--processes", "1", "-C", str(tmp_path / "fab"), "--json"]) == 0
    return tmp_path / "fab"


def connect(fab: Path, dps: EmulatedDps, mode: str) -> None:
    secret = fab / "secrets" / "dps-key"
    secret.touch(mode=0o600)
    secret.write_text(dps.key)
    (fab / "dps-root.pem").write_text(dps.root_pem)
    reference = quote(f"file:{secret}", safe="")
    uri = f"azure-dps:{dps.host}:{dps.https_port}?mode={mode}&key={reference}&trust=dps-root.pem"
    with (fab / "birthmark.toml").open("a") as file:
        file.write(f'\n[clouds.dps]\nuri = "{uri}"\n')


def held(dps: EmulatedDps) -> dict[str, tuple[bool, list[str]]]:
    """Return what the service holds: name → enabled, SHA-256 of certificates; read past our adapter and the weather."""
    found: dict[str, tuple[bool, list[str]]] = {}
    for one in dps.enrollments.list():
        assert one["registrationId"] not in found
        x509 = one["attestation"].get("x509", {}).get("clientCertificates", {})
        prints = [each["info"]["sha256Thumbprint"].lower() for each in x509.values() if each]
        found[one["registrationId"]] = (one["provisioningStatus"] == "enabled", prints)
    return found


def verified(fab: Path) -> dict[str, str]:
    """Return the verified devices of the ledger with the hash of their certificate."""
    found = {}
    with open_workspace(fab, publish=False) as workspace:
        for _, entry in workspace.ledger.entries(0, workspace.ledger.head().size):
            head = msgspec.json.decode(entry.partition(b"\n")[0])
            if head["type"] == "verified":
                device = workspace.records.device(head["device"])
                if device.state is DeviceState.VERIFIED:
                    found[head["device"]] = sha256(stored_certificate(workspace.ledger, device)).hexdigest()
    return found


@contextmanager
def weather(dps: EmulatedDps) -> Iterator[None]:
    """Change what goes wrong, three times a second, until the end."""
    over, chance = threading.Event(), random.Random(SEED)

    def blow() -> None:
        while not over.wait(0.3):
            plan = chance.choice(STORMS)
            dps.faults.set(msgspec.structs.replace(plan, seed=chance.randrange(1000)))

    thread = threading.Thread(target=blow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        dps.faults.set(FaultPlan())


def settled(fab: Path) -> int:
    path = fab / "register" / "dps.db"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=30)) as book:
        try:
            return int(book.execute("SELECT count(*) FROM registration WHERE state = 2").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # it is being made


def killed_at(fab: Path, clock: SkippingClock, enough: int) -> None:
    """Start a run and kill it when so many devices are settled."""
    process, pipe = start_run(fab, "dps", clock)
    end = time.monotonic() + LONGEST_S
    while process.is_alive() and settled(fab) < enough:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert process.is_alive(), pipe.recv()
    process.kill()
    process.join()
    assert process.exitcode == -9


def finished(fab: Path, clock: SkippingClock) -> dict[str, Any]:
    process, pipe = start_run(fab, "dps", clock)
    assert pipe.poll(LONGEST_S)
    answer: dict[str, Any] = pipe.recv()
    process.join()
    return answer


def test_the_offline_day_is_registered_through_storms_and_two_deaths(
    fab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SkippingClock()
    with EmulatedDps(mqtt_port=0, monotonic=clock) as dps:
        connect(fab, dps, "individual")
        before = verified(fab)
        assert len(before) == DEVICES
        repeated = 0
        with weather(dps):
            for share in (0.25, 0.6):
                killed_at(fab, clock, int(share * DEVICES))
                now = held(dps) if share < 0.5 else {}
                assert {name for name, (enabled, _) in now.items() if enabled} <= set(before), "verified before"
            reworked = sorted(before)[: DEVICES // 20]
            for serial in reworked[: len(reworked) // 2]:
                assert main(["device", "scrap", serial, "--reason", "dropped", "-C", str(fab), "--json"]) == 0
            for serial in reworked[len(reworked) // 2 :]:
                assert main(["device", "rework", serial, "--reason", "swapped", "-C", str(fab), "--json"]) == 0
        dps.faults.set(LAST_STORM)
        answer = finished(fab, clock)
        dps.faults.set(FaultPlan())
        assert "error" not in answer, answer
        repeated = answer["repeated"]
        assert repeated <= 40, "at most one round of four calls of ten"
        assert answer["back_offs"] > 0, "there was weather"
        found, after = held(dps), verified(fab)
        assert {name: prints for name, (enabled, prints) in found.items() if enabled} == {
            name: [digest] for name, digest in after.items()
        }, "none lost, none doubled, none let in that is not verified"
        assert {name for name, (enabled, _) in found.items() if not enabled} == set(reworked)
        capsys.readouterr()
        assert main(["register", "reconcile", "dps", "-C", str(fab), "--json"]) == 0
    report = verify_workspace(fab, processes=1)
    assert not [code for code in report.totals if code.startswith("audit.registered")]
    told: dict[str, str] = {}
    with open_workspace(fab, publish=False) as workspace:
        for _, entry in workspace.ledger.entries(0, workspace.ledger.head().size):
            if b'"type":"registered"' in entry.partition(b"\n")[0]:
                event, lines = e.decode_entry(entry)
                assert isinstance(event, e.Registered)
                for line in lines.decode().split("\n"):
                    serial, _, standing, outcome = line.split(" ")
                    assert outcome in ("done", "same")
                    told[serial] = standing
    assert told == {name: "enabled" if enabled else "blocked" for name, (enabled, _) in found.items()}
