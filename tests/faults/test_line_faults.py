"""Eight heads, devices that lie and lose their power, and a station that is killed every few seconds.

The devices live in a process of their own (``support.devicefarm``), the station in another, which SIGKILL ends again
and again in the middle of its work. In the end the three records are compared one by one: what is in the devices,
what the ledger says, and what the receipts state. ``make line-faults`` runs 10,000 devices.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.model.events import decode_entry
from birthmark.pki.algorithms import spki_of
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.wire.receipt import open_receipt, verify_evidence
from support.farmtarget import ask_farm, plug_in
from support.linestation import FIRST

DEVICES = int(os.environ.get("BIRTHMARK_LINE_DEVICES", "240"))
SEED = os.environ.get("BIRTHMARK_LINE_SEED", "1")
TROUBLE = "0.06"
LONGEST_S = 120 + DEVICES / 2
"""A busy machine with two processors does seven devices a second, with a new start of the station every few seconds."""
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with half of the devices in a made pool and half with keys of their own, and the plug-in."""
    place = tmp_path_factory.mktemp("line")
    make_workspace(place / "fab")
    common = ["--quantity", str(DEVICES // 2), "--product", "device", "-C", str(place / "fab"), "--json"]
    for order, origin in (("pooled", "injected"), ("born", "device")):
        assert main(["order", "create", order, "--first", FIRST[origin], "--key-origin", origin, *common]) == 0
    assert main(["order", "make", "pooled", "--processes", "1", "-C", str(place / "fab"), "--json"]) == 0
    plug_in(place / "plugins")
    return place


def start(place: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{place / 'plugins'}:{TESTS}"}
    with open(place / f"{module}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", module, *arguments], env=environment, stdout=log, stderr=log
        )


@contextmanager
def farm(place: Path) -> Iterator[str]:
    socket = str(place / "farm.sock")
    running = start(place, "support.devicefarm", socket, SEED, TROUBLE)
    try:
        while not Path(f"{socket}.ready").exists():
            assert running.poll() is None, (place / "support.devicefarm.log").read_text()
            time.sleep(0.02)
        yield socket
    finally:
        running.kill()
        running.wait()


def work_and_be_killed(place: Path, socket: str) -> int:
    """Start the station again and again until it says that it is done; return how often it was killed."""
    chance, kills, until = random.Random(SEED), 0, time.monotonic() + LONGEST_S
    journal = place / "fab" / "journal" / "line1.jsonl"
    while True:
        station = start(place, "support.linestation", str(place / "fab"), socket, str(DEVICES // 2))
        begun = journal.stat().st_size if journal.exists() else 0
        while station.poll() is None and (not journal.exists() or journal.stat().st_size <= begun):
            time.sleep(0.01)
        try:
            code = station.wait(chance.uniform(0.4, 1.8 if DEVICES < 1000 else 8))
        except subprocess.TimeoutExpired:
            station.send_signal(signal.SIGKILL)
            station.wait()
            kills += 1
            assert time.monotonic() < until, "the line does not come to an end"
            continue
        assert code == 0, (place / "support.linestation.log").read_text()[-4000:]
        return kills


class Ledger:
    """What the log says of each device, in its order."""

    def __init__(self, workspace: Any) -> None:
        self.events: dict[str, list[Any]] = defaultdict(list)
        self.certificates: dict[str, list[bytes]] = defaultdict(list)
        self.receipts: dict[str, list[bytes]] = defaultdict(list)
        for _, entry in workspace.ledger.entries(0, workspace.ledger.head().size):
            event, payload = decode_entry(entry)
            device = getattr(event, "device", None)
            if device is None:
                continue
            self.events[device].append(event)
            if isinstance(event, e.Issued):
                self.certificates[device].append(payload)
            if isinstance(event, e.Verified):
                self.receipts[device].append(payload)


def test_every_device_ends_with_one_identity_that_is_on_record(place: Path) -> None:
    with farm(place) as socket:
        began = time.monotonic()
        kills = work_and_be_killed(place, socket)
        seconds = time.monotonic() - began
        told = ask_farm(socket, timeout=60, op="dump")
    assert told is not None
    units, troubles = told["units"], told["troubles"]
    assert kills >= 2
    assert len(troubles) >= 8, "the devices behaved too well"
    counted = check_records(place / "fab", units)
    assert main(["audit", "verify", str(place / "fab"), "--json"]) == 0
    figures = {"devices": DEVICES, "seconds": round(seconds, 1), "kills": kills, **counted, "troubles": troubles}
    print(json.dumps(figures, sort_keys=True))


def check_records(root: Path, units: dict[str, Any]) -> dict[str, int]:
    """Compare device, ledger and receipt of every device; return what was counted."""
    states: Counter[str] = Counter()
    live: set[str] = set()
    with open_workspace(root) as workspace:
        ledger = Ledger(workspace)
        vkey = workspace.records.stations()["line1"]
        assert len(units) == DEVICES == len(ledger.events)
        for serial, unit in units.items():
            device = workspace.records.device(serial)
            states[str(device.state)] += 1
            revoked = {event.cert_serial for event in ledger.events[serial] if isinstance(event, e.Revoked)}
            valid = [der for der in ledger.certificates[serial] if serial_of(der) not in revoked]
            if device.state is DeviceState.SCRAPPED:
                assert not valid, f"{serial} is scrapped and has an identity"
                continue
            assert device.state is DeviceState.VERIFIED
            (certificate,) = valid
            assert unit["certificate"] == certificate.hex(), f"{serial} holds what is not on record"
            assert unit["spki"] == spki_of(x509.load_der_x509_certificate(certificate).public_key()).hex()
            receipt = open_receipt(ledger.receipts[serial][-1], vkey)
            assert (receipt.device_serial, receipt.cert_sha256) == (serial, sha256(certificate).hexdigest())
            verify_evidence(receipt, certificate)
            assert unit["spki"] not in live, f"{serial} has somebody else's key"
            live.add(unit["spki"])
        issued = {sha256(der).hexdigest() for certificates in ledger.certificates.values() for der in certificates}
        for serial, unit in units.items():
            assert set(unit["ever"]) <= issued, f"{serial} held a certificate that no log knows"
        for order in ("pooled", "born"):
            totals = workspace.records.totals(order)
            assert totals.ordered == DEVICES // 2 == totals.verified + totals.scrapped
        journal_is_closed(workspace)
    kinds = Counter(type(event).__name__ for events in ledger.events.values() for event in events)
    return {**states, **{name.lower(): kinds[name] for name in ("Issued", "Failed", "Rejected", "Superseded")}}


def journal_is_closed(workspace: Any) -> None:
    station = workspace.station()
    try:
        assert not station.journal.open_attempts()
    finally:
        station.journal.close()


def serial_of(certificate: bytes) -> str:
    return x509.load_der_x509_certificate(certificate).serial_number.to_bytes(16, "big").hex()
