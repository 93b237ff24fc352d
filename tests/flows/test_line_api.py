"""The Python API as a test engineer's own program uses it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509

from birthmark.line import Line, Misconfigured, Progress, Refused, StationFault, Unavailable, open_line
from birthmark.shell.workspace.wiring import Workspace
from support.skinworld import TARGET, events, late_device, make_bench


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("api"))


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    return tmp_path / "bench"


@pytest.fixture
def line(place: Path) -> Iterator[Line]:
    with open_line("fab") as opened:
        yield opened


def test_a_device_gets_its_identity_and_proves_it_again(place: Path, line: Line) -> None:
    seen: list[Progress] = []
    made = line.provision("TH-0001", TARGET, handshake=True, progress=seen.append)
    assert (made.outcome, made.evidence, line.station) == ("pass", "signature", "line1")
    assert {step.step for step in seen if step.status == "ok"} >= {"probe", "obtain", "install", "prove", "record"}
    assert {step.attempt for step in seen if step.step == "record"} == {made.attempt}
    der = line.certificate("TH-0001")
    assert sha256(der).hexdigest() == made.cert_sha256
    on_device = x509.load_pem_x509_certificates((place / "out/TH-0001/device.crt").read_bytes())[0]
    assert on_device == x509.load_der_x509_certificate(der)
    again = line.verify("TH-0001", TARGET)
    assert (again.outcome, again.cert_sha256) == ("already", made.cert_sha256)


def test_verify_makes_nothing_and_writes_nothing(place: Path, line: Line) -> None:
    with pytest.raises(Refused) as refused:
        line.verify("TH-0002", TARGET)
    assert refused.value.code == "device.not_verified"
    assert list((place / "out/TH-0002").iterdir()) == []
    assert {event.__struct_config__.tag for event in events(place, "TH-0002")} <= {"issued"}
    with pytest.raises(Refused, match=r"device\.unknown"):
        line.verify("TH-9999", TARGET)


def test_an_own_attempt_id_is_kept_and_the_one_under_way_is_told(line: Line) -> None:
    mine = line.attempt_for("TH-0001")
    assert line.provision("TH-0001", TARGET, attempt=mine).attempt == mine
    assert line.attempt_for("TH-0001") != mine
    with late_device("TH-0002") as late:
        run = line.begin("TH-0002", TARGET, attempt="tester-attempt-1")
        assert late.asked.wait(10)
        run.stop()
        late.answer()
        assert run.wait(10)
    with pytest.raises(Unavailable, match=r"station\.fenced"):
        run.outcome()
    assert line.attempt_for("TH-0002") == "tester-attempt-1"
    assert line.provision("TH-0002", TARGET, attempt=line.attempt_for("TH-0002")).attempt == "tester-attempt-1"


def test_a_late_device_gets_nothing_and_the_attempt_goes_on(place: Path, line: Line) -> None:
    with late_device("TH-0003") as late:
        began = time.monotonic()
        with pytest.raises(Unavailable) as left:
            line.provision("TH-0003", TARGET, deadline_s=0.3)
        assert left.value.code == "station.deadline"
        assert time.monotonic() - began < 5
        with pytest.raises(Refused, match=r"device\.in_progress"):
            line.provision("TH-0003", TARGET)
        assert line.provision("TH-0004", TARGET).outcome == "pass"
        late.answer()
        assert isinstance(late.error, Unavailable)
    wait_until(lambda: not line._heads._busy)
    assert list((place / "out/TH-0003").iterdir()) == []
    first = line.attempt_for("TH-0003")
    assert line.provision("TH-0003", TARGET).attempt == first
    told = [event.__struct_config__.tag for event in events(place, "TH-0003")]
    assert told.count("drawn") == told.count("verified") == 1


def test_who_waits_can_be_interrupted_and_the_device_is_left_alone(place: Path, line: Line) -> None:
    import signal

    main = threading.get_ident()
    with late_device("TH-0005") as late:

        def interrupt() -> None:
            assert late.asked.wait(10)
            signal.pthread_kill(main, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            line.provision("TH-0005", TARGET)
        late.answer()
        assert isinstance(late.error, Unavailable)
    assert list((place / "out/TH-0005").iterdir()) == []


def test_closing_the_line_takes_every_right_away(place: Path) -> None:
    with late_device("TH-0006") as late:
        with open_line("fab") as line:
            run = line.begin("TH-0006", TARGET)
            assert late.asked.wait(10)
            threading.Timer(0.3, late.answer).start()
        assert run.wait(0)
        with pytest.raises(Unavailable, match=r"station\.fenced"):
            run.outcome()
        with pytest.raises(RuntimeError):
            line.begin("TH-0006", TARGET)
    assert list((place / "out/TH-0006").iterdir()) == []


def test_a_station_is_open_once_and_named_where_there_are_several(place: Path, line: Line) -> None:
    with pytest.raises(StationFault, match=r"journal\.in_use"), open_line("fab"):
        pass
    with pytest.raises(Misconfigured, match=r"settings\.station"), open_line("fab", "line9"):
        pass
    with pytest.raises(Misconfigured, match=r"workspace\.missing"), open_line("nowhere"):
        pass


def test_a_log_that_cannot_be_shown_stops_the_line(place: Path) -> None:
    def gone(self: Workspace) -> int:
        raise OSError("the disk is gone")

    def closing_tells_it() -> None:
        with open_line("fab") as line:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Workspace, "publish", gone)
                wait_until(lambda: line.failure is not None)
            with pytest.raises(StationFault, match=r"station\.publish"):
                line.provision("TH-0001", TARGET)

    with pytest.raises(StationFault, match=r"station\.publish"):
        closing_tells_it()
    assert list((place / "out/TH-0001").iterdir()) == []


def wait_until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)
