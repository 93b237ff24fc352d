"""Real OpenHTF runs the phases: what it says of a test, what is on record, and what a device got."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import openhtf as htf
import pytest
from cryptography import x509

from birthmark.errors import StationFault, Unavailable
from birthmark.integrations.openhtf import ProvisionPlug, provision_phase, verify_phase
from birthmark.line import Line, open_line
from birthmark.workflow.line.verdict import Verdicts
from support.skinworld import TARGET, events, late_device, make_bench

# OpenHTF throws an exception into the thread that it gives up, and lets it die of it.
OPENHTF_KILLS = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("openhtf"))


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    return tmp_path / "bench"


@pytest.fixture
def line(place: Path) -> Iterator[Line]:
    with open_line("fab") as opened:
        yield opened


def execute(device_serial: str, *phases: Any) -> Any:
    """Run one OpenHTF test; return its record."""
    records: list[Any] = []
    test = htf.Test(*phases)
    test.add_output_callbacks(records.append)
    test.execute(test_start=lambda: device_serial)
    return records[0]


def measured(record: Any, phase: str) -> dict[str, Any]:
    (found,) = [each for each in record.phases if each.name == phase]
    return {
        name: each.measured_value.value for name, each in found.measurements.items() if each.measured_value.is_value_set
    }


def tags(place: Path, device_serial: str) -> list[str]:
    return [event.__struct_config__.tag for event in events(place, device_serial)]


def test_the_identity_is_on_record_before_the_next_phase_begins(place: Path, line: Line) -> None:
    seen: list[list[str]] = []

    def next_phase(test: Any) -> None:
        seen.append(tags(place, test.test_record.dut_id))

    plug = ProvisionPlug.at(line, TARGET, handshake=True)
    record = execute("TH-0001", provision_phase(plug, timeout_s=60), next_phase, verify_phase(plug))
    assert record.outcome.name == "PASS", record.outcome_details
    assert seen == [["issued", "drawn", "installed", "verified", "key_erased"]]
    found = measured(record, "birthmark_provision")
    on_device = x509.load_pem_x509_certificates((place / "out/TH-0001/device.crt").read_bytes())[0]
    assert found["readback_match"] is True
    assert 0 < found["birthmark_total_ms"] < 60_000
    attached = {name: each.data for phase in record.phases for name, each in phase.attachments.items()}
    assert x509.load_pem_x509_certificate(attached["device.crt"]) == on_device
    told = json.loads(attached["birthmark.json"])
    assert (told["device_serial"], told["outcome"]) == ("TH-0001", "already")
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = on_device.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found["spki_sha256"] == sha256(spki).hexdigest()
    assert found["cert_sha256"] == sha256(on_device.public_bytes(Encoding.DER)).hexdigest()
    assert measured(record, "birthmark_verify")["cert_sha256"] == found["cert_sha256"]


def test_attachments_and_record_hold_no_key(place: Path, line: Line) -> None:
    record = execute("TH-0001", provision_phase(ProvisionPlug.at(line, TARGET)))
    key = (place / "out/TH-0001/device.key").read_text()
    from openhtf.util import data

    told = json.dumps(data.convert_to_base_types(record), default=repr)
    assert "PRIVATE" not in told
    assert key.splitlines()[1] not in told


def test_a_bad_device_fails_and_a_bad_station_is_no_verdict(place: Path, line: Line) -> None:
    ran: list[str] = []

    def never(test: Any) -> None:
        ran.append(test.test_record.dut_id)

    wrong = execute("TH-0001", provision_phase(ProvisionPlug.at(line, "files:out/TH-0002")), never)
    assert wrong.outcome.name == "FAIL"
    assert "device.identity.mismatch" in [detail.code for detail in wrong.outcome_details]
    unknown = execute("TH-9999", provision_phase(ProvisionPlug.at(line, "files:out/TH-0002")), never)
    assert (unknown.outcome.name, unknown.outcome_details[0].code) == ("FAIL", "device.unknown")
    nowhere = execute("TH-0001", provision_phase(ProvisionPlug.at(line, "files:nowhere/{device_serial}")), never)
    assert (nowhere.outcome.name, nowhere.outcome_details[0].code) == ("ERROR", "target.directory.missing")
    not_yet = execute("TH-0001", verify_phase(ProvisionPlug.at(line, TARGET)), never)
    assert (not_yet.outcome.name, not_yet.outcome_details[0].code) == ("FAIL", "device.not_verified")
    assert ran == []


def test_a_trace_that_cannot_be_stored_never_passes(place: Path, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise StationFault("storage.full", "no space left", hint="Free disk space.")

    def callback(record: Any) -> None:
        raise OSError("the database of the line is down")

    with monkeypatch.context() as patch:
        patch.setattr(Verdicts, "verified", full)
        record = execute("TH-0001", provision_phase(ProvisionPlug.at(line, TARGET)))
    assert (record.outcome.name, record.outcome_details[0].code) == ("ERROR", "storage.full")
    test = htf.Test(provision_phase(ProvisionPlug.at(line, TARGET)))
    test.add_output_callbacks(callback)
    assert test.execute(test_start=lambda: "TH-0001"), "what a callback says does not count: the reason for the phase"
    assert tags(place, "TH-0001").count("verified") == 1


def test_a_late_device_gets_nothing_after_the_phase_gave_up(place: Path, line: Line) -> None:
    plug = ProvisionPlug.at(line, TARGET)
    with late_device("TH-0003") as late:
        began = time.monotonic()
        record = execute("TH-0003", provision_phase(plug, timeout_s=0.3))
        assert (record.outcome.name, record.outcome_details[0].code) == ("ERROR", "station.deadline")
        assert time.monotonic() - began < 6
        attempt = line.attempt_for("TH-0003")
        late.answer()
        assert isinstance(late.error, Unavailable)
    assert list((place / "out/TH-0003").iterdir()) == []
    settle(line)
    again = execute("TH-0003", provision_phase(plug))
    assert again.outcome.name == "PASS"
    assert json.loads(again.phases[-1].attachments["birthmark.json"].data)["attempt"] == attempt
    assert (tags(place, "TH-0003").count("drawn"), tags(place, "TH-0003").count("verified")) == (1, 1)


@OPENHTF_KILLS
def test_a_phase_that_openhtf_kills_leaves_nothing_that_burns(place: Path, line: Line) -> None:
    plug = ProvisionPlug.at(line, TARGET)
    impatient = htf.PhaseOptions(timeout_s=0.5)(provision_phase(plug))
    with late_device("TH-0004") as late:
        assert execute("TH-0004", impatient).outcome.name == "TIMEOUT"
        late.answer()
        assert isinstance(late.error, Unavailable)
        assert late.error.code == "station.fenced"
    assert list((place / "out/TH-0004").iterdir()) == []
    settle(line)
    assert execute("TH-0004", provision_phase(plug)).outcome.name == "PASS"


@OPENHTF_KILLS
def test_an_aborted_test_comes_back_at_once_and_the_device_is_left_alone(place: Path, line: Line) -> None:
    test = htf.Test(provision_phase(ProvisionPlug.at(line, TARGET)))
    records: list[Any] = []
    test.add_output_callbacks(records.append)
    with late_device("TH-0005") as late:
        running = threading.Thread(target=lambda: test.execute(test_start=lambda: "TH-0005"))
        running.start()
        assert late.asked.wait(20)
        began = time.monotonic()
        test.abort_from_sig_int()
        running.join(20)
        assert time.monotonic() - began < 5
        late.answer()
        assert isinstance(late.error, Unavailable)
    assert records[0].outcome.name == "ABORTED"
    assert list((place / "out/TH-0005").iterdir()) == []


def test_teardown_takes_the_right_away_and_does_not_wait(place: Path, line: Line) -> None:
    told: list[str] = []

    def raised(plug: ProvisionPlug) -> str:
        with pytest.raises(Unavailable) as left:
            plug.provision("TH-0006")
        return left.value.code

    plug = ProvisionPlug.at(line, TARGET)()
    with late_device("TH-0006") as late:
        working = threading.Thread(target=lambda: told.append(raised(plug)))
        working.start()
        assert late.asked.wait(20)
        began = time.monotonic()
        plug.tearDown()
        assert time.monotonic() - began < 0.1
        late.answer()
        working.join(20)
    assert told in (["station.fenced"], ["station.deadline"])
    assert list((place / "out/TH-0006").iterdir()) == []


def test_heads_of_one_process_share_one_line(place: Path, line: Line) -> None:
    names = [f"TH-{number:04d}" for number in range(8, 14)]
    found: dict[str, str] = {}

    def head(name: str) -> None:
        found[name] = execute(name, provision_phase(ProvisionPlug.at(line, TARGET))).outcome.name

    threads = [threading.Thread(target=head, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(names, "PASS")
    held = {(place / "out" / name / "device.crt").read_bytes() for name in names}
    assert len(held) == len(names)


def test_a_plug_without_a_line_says_how_it_is_made() -> None:
    with pytest.raises(TypeError, match=r"ProvisionPlug\.at"):
        ProvisionPlug().provision("TH-0001")


def settle(line: Line) -> None:
    """Wait until the thread that was left behind is at its end."""
    end = time.monotonic() + 20
    while line._runs:
        assert time.monotonic() < end
        time.sleep(0.01)
