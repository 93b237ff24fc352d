"""Heads that share a station: slow devices, shared places, interruptions, devices that say who they are."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.targets.files import FilesTarget
from birthmark.adapters.targets.pkcs11 import Pkcs11Target
from birthmark.errors import BirthmarkError, StationFault, Unavailable
from birthmark.shell.cli.main import main
from birthmark.shell.line.heads import StationHeads, open_heads
from birthmark.shell.line.places import PlaceLocks, place_of
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from support.softhsm import MODULE

TARGET = "files:out/{device_serial}"
SERIALS = [f"TH-{number:04d}" for number in range(1, 9)]
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("heads")
    make_workspace(place / "fab")
    options = ["--product", "device", "-C", str(place / "fab"), "--json"]
    assert main(["order", "create", "lot1", "--quantity", "8", "--first", "TH-0001", *options]) == 0
    assert main(["order", "make", "lot1", "--processes", "1", "-C", str(place / "fab"), "--json"]) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    for serial in SERIALS:
        (tmp_path / "out" / serial).mkdir(parents=True)
    return tmp_path


@contextmanager
def station(**options: Any) -> Iterator[StationHeads]:
    with open_workspace(Path("fab")) as workspace, open_heads(workspace, **options) as heads:
        yield heads


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def code_of(call: Any) -> str:
    try:
        return str(call().outcome)
    except BirthmarkError as problem:
        return problem.code


class Hanging:
    """Makes ``install`` of some devices hang, whatever their fence says, until ``wake`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *serials: str) -> None:
        self.wake, self.asleep = threading.Event(), threading.Event()
        install = FilesTarget.install

        def hanging(target: FilesTarget, credential: Any, fence: Any) -> None:
            if credential.device_serial in serials:
                self.asleep.set()
                assert self.wake.wait(PATIENCE_S)
            install(target, credential, fence)

        monkeypatch.setattr(FilesTarget, "install", hanging)


def test_no_device_is_begun_once_the_log_cannot_be_shown(place: Path) -> None:
    gone = threading.Event()

    def publish(workspace: Workspace) -> int:
        gone.set()
        raise StationFault("log.gone", "the disk is gone", hint="Mend it.")

    def devices() -> Iterator[str]:
        yield SERIALS[0]
        patch.setattr(Workspace, "publish", publish)
        assert gone.wait(PATIENCE_S)
        yield from SERIALS[1:]

    done: list[str] = []
    with station() as heads, pytest.MonkeyPatch.context() as patch, pytest.raises(StationFault, match=r"log\.gone"):
        heads.run(devices(), TARGET, heads=1, result=lambda result: done.append(result.device_serial))
    # The one that was taken from the list while the log went may still have been begun.
    assert done in (SERIALS[:1], SERIALS[:2])


def test_a_device_that_never_answers_costs_its_deadline_and_not_the_line(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch, SERIALS[0])
    with station(deadline_s=0.3) as heads:
        total = heads.run(SERIALS, TARGET, heads=1)
        assert (total.passed, total.codes) == (7, {"station.deadline": 1})
        assert total.worst is not None
        assert total.worst.exit_code == 6
        # The step that hangs still has the device: nobody else gets at it.
        assert code_of(lambda: heads.provision(SERIALS[0], TARGET)) == "device.in_progress"
        hanging.wake.set()
        for thread in threading.enumerate():
            if thread.name.startswith("device "):
                thread.join(PATIENCE_S)
        assert list((place / "out" / SERIALS[0]).iterdir()) == []
        assert heads.provision(SERIALS[0], TARGET).outcome == "pass"
    assert len(total.engine_ms) == len(total.device_ms) == 7


def test_the_deadline_of_the_command_counts(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch, SERIALS[0])
    one = ["station", "provision", "--device-serial", SERIALS[0], "--target", TARGET]
    began = time.monotonic()
    code, lines = called(capsys, *one, "--deadline", "0.2")
    assert time.monotonic() - began < 10
    assert (code, lines[-1]["error"], lines[-1]["retry_safe"]) == (6, "station.deadline", True)
    hanging.wake.set()
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    code, lines = called(capsys, *one)
    assert (code, lines[-1]["status"]) == (0, "pass")
    assert lines[-1]["ms"] == pytest.approx(lines[-1]["device_ms"] + lines[-1]["engine_ms"])


def test_an_interruption_takes_the_fence_away_and_the_next_run_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(monkeypatch, *SERIALS)
    main_thread = threading.get_ident()

    def interrupt() -> None:
        assert hanging.asleep.wait(PATIENCE_S)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    results: list[Any] = []
    with station() as heads:
        with pytest.raises(KeyboardInterrupt):
            heads.run(SERIALS, TARGET, heads=4, result=results.append)
        open_attempts = {record.device_serial: record.step for record in heads.post.journal.open_attempts()}
    assert {result.error.code for result in results} == {"station.fenced"}
    assert 1 <= len(results) <= 4
    assert set(open_attempts.values()) <= {"begun", "installing"}
    hanging.wake.set()
    for thread in threading.enumerate():
        if thread.name.startswith("device "):
            thread.join(PATIENCE_S)
    assert not [path for serial in SERIALS for path in (place / "out" / serial).iterdir()]
    with station() as heads:
        assert heads.run(SERIALS, TARGET, heads=4).passed == 8


def test_two_heads_are_never_at_work_in_one_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One mount, two serials, two spellings of the path: the second head is told, and the device keeps its own."""
    hanging = Hanging(monkeypatch, SERIALS[0])
    (place / "link").symlink_to(place / "out" / SERIALS[0])
    with station() as heads:
        first = threading.Thread(target=lambda: heads.provision(SERIALS[0], TARGET))
        first.start()
        assert hanging.asleep.wait(PATIENCE_S)
        assert code_of(lambda: heads.provision(SERIALS[1], f"files:{place}/link")) == "station.target.busy"
        assert (
            code_of(lambda: heads.provision(SERIALS[1], f"files:out/{SERIALS[0]}?layout=der")) == "station.target.busy"
        )
        hanging.wake.set()
        first.join(PATIENCE_S)
        assert code_of(lambda: heads.provision(SERIALS[1], f"files:{place}/link")) == "device.identity.mismatch"


def hold_place(path: Path, ready: Any, leave: Any) -> None:
    with PlaceLocks(path).alone("serial:/dev/ttyUSB0"):
        ready.set()
        leave.wait(PATIENCE_S)


def test_a_place_is_locked_among_processes_and_free_when_one_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    path = tmp_path / "places.lock"
    process = context.Process(target=hold_place, args=(path, ready, leave))
    process.start()
    assert ready.wait(PATIENCE_S)
    locks = PlaceLocks(path)
    with pytest.raises(Unavailable) as caught, locks.alone("serial:/dev/ttyUSB0"):
        raise AssertionError("two at one port")
    assert caught.value.code == "station.target.busy"
    with locks.alone("serial:/dev/ttyUSB1"):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE_S)
    with locks.alone("serial:/dev/ttyUSB0"), pytest.raises(Unavailable), locks.alone("serial:/dev/ttyUSB0"):
        raise AssertionError("two heads of one process at one port")
    assert path.stat().st_size == 0


def test_options_do_not_make_another_place_of_the_same_one(tmp_path: Path) -> None:
    def files(uri: str) -> str:
        return place_of(FilesTarget(uri, secrets=None, base=tmp_path), uri)  # type: ignore[arg-type]

    def token(uri: str) -> str:
        return place_of(Pkcs11Target(uri, secrets=None, base=tmp_path), uri)  # type: ignore[arg-type]

    assert files("files:a/b") == files("files:a//b?layout=der") == files(f"files:{tmp_path}/a/b")
    options = f"?module-path={MODULE}&pin-source=env:PIN"
    assert token(f"pkcs11:token=T;object=a{options}") == token(f"pkcs11:object=b;token=T{options}")
    assert place_of(object(), "at:/dev/ttyUSB0?tag=7") == "at:/dev/ttyUSB0"  # type: ignore[arg-type]


def test_the_device_is_asked_who_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["station", "provision", "--identify", "--target"]
    (place / "fixture").mkdir()
    (place / "fixture" / "device-id").write_text(f"{SERIALS[2]}\n")
    code, lines = called(capsys, *asked, "files:fixture")
    assert (code, lines[-1]["device_serial"], lines[-1]["status"]) == (0, SERIALS[2], "pass")
    for identity, error, family in (
        ("TH-9999", "device.unknown", 3),
        ("$(reboot)", "device.identity.unusable", 4),
        ("two words", "target.identity.malformed", 4),
    ):
        (place / "fixture" / "device-id").write_text(f"{identity}\n")
        code, lines = called(capsys, *asked, "files:fixture")
        assert (code, lines[-1]["error"]) == (family, error)
    code, lines = called(capsys, *asked, TARGET)
    assert (code, lines[-1]["error"]) == (2, "station.identify.placeholder")
    code, lines = called(capsys, *asked, "files:fixture", "--device-serial", SERIALS[2])
    assert (code, lines[-1]["error"]) == (2, "station.device")
    code, lines = called(capsys, "station", "provision", "--target", "files:fixture")
    assert (code, lines[-1]["error"]) == (2, "station.device")


def test_a_run_tells_the_engines_share_from_the_devices(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = FilesTarget.probe

    def slow(target: FilesTarget) -> Any:
        time.sleep(0.05)
        return probe(target)

    monkeypatch.setattr(FilesTarget, "probe", slow)
    Path("list.txt").write_text("\n".join(SERIALS))
    code, lines = called(capsys, "station", "run", "--devices", "list.txt", "--target", TARGET, "--heads", "2")
    assert code == 0
    assert lines[-1]["device_p50_ms"] >= 50
    assert 0 < lines[-1]["engine_p50_ms"] <= lines[-1]["engine_p99_ms"]
    for line in lines:
        if line["step"] == "provision":
            assert line["device_ms"] >= 50
            assert line["ms"] == pytest.approx(line["device_ms"] + line["engine_ms"], abs=0.01)


def test_ctrl_c_at_the_terminal_ends_with_130_and_says_so(place: Path) -> None:
    program = (
        "import sys, time; from birthmark.adapters.targets.files import FilesTarget;"
        "FilesTarget.install = lambda *_: (print('asleep', flush=True), time.sleep(60));"
        "from birthmark.shell.cli.main import main;"
        f"sys.exit(main(['station', 'provision', '--device-serial', 'TH-0001', '--target', {TARGET!r}]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        while running.stdout.readline() != "asleep\n":
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130
    assert "run the same command again" in told
