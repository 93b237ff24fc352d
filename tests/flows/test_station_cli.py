"""``birthmark station`` and ``birthmark device`` as an operator or a test executive calls them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from birthmark.shell.bench.line import bench_line
from birthmark.shell.bench.station import bench_station
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.testing.modem import ModemSimulator
from support.devicetoken import make_token, start_tokens
from support.softhsm import MODULE, PIN

TARGET = "files:out/{device_serial}"
ONE_DEVICE = ("--device-serial", "TH-0001", "--target", TARGET)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a made order of 12 and an order of 4 whose keys are born in the devices."""
    place = tmp_path_factory.mktemp("cli")
    make_workspace(place / "fab")
    options = ["--product", "device", "-C", str(place / "fab"), "--json"]
    assert main(["order", "create", "lot1", "--quantity", "12", "--first", "TH-0001", *options]) == 0
    born = ["--quantity", "4", "--first", "EL-0001", "--key-origin", "device"]
    assert main(["order", "create", "lot2", *born, *options]) == 0
    assert main(["order", "make", "lot1", "--processes", "1", "-C", str(place / "fab"), "--json"]) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    for number in range(1, 13):
        (tmp_path / "out" / f"TH-{number:04d}").mkdir(parents=True)
    for number in range(1, 5):
        (tmp_path / "out" / f"EL-{number:04d}").mkdir()
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a command with --json; return the exit code and the documents on stdout."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def provision(capsys: pytest.CaptureFixture[str], device_serial: str, *more: str, target: str = TARGET) -> Any:
    return called(capsys, "station", "provision", "--device-serial", device_serial, "--target", target, *more)


def test_one_device_from_scan_to_pass_and_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = provision(capsys, "TH-0001", "--handshake")
    assert code == 0
    steps = ["probe", "obtain", "install", "prove", "verify", "handshake", "record", "provision"]
    assert [line["step"] for line in lines] == steps
    assert {"ts", "attempt", "device_serial", "step", "status", "ms"} <= set(lines[-1])
    assert (lines[-1]["status"], lines[-1]["tls_version"]) == ("pass", "TLSv1.3")
    code, again = provision(capsys, "TH-0001")
    assert (code, again[-1]["status"], again[-1]["cert_sha256"]) == (0, "already", lines[-1]["cert_sha256"])
    code, (shown,) = called(capsys, "device", "show", "TH-0001", "--history")
    assert (code, shown["state"], shown["cert_sha256"]) == (0, "verified", lines[-1]["cert_sha256"])
    assert [event["type"] for event in shown["history"]] == ["issued", "drawn", "installed", "verified", "key_erased"]


def test_key_born_in_the_device(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = provision(capsys, "EL-0001", "--handshake", target=f"{TARGET}?key=born")
    assert (code, lines[-1]["status"]) == (0, "pass")
    assert "make_key" in [line["step"] for line in lines]


def test_a_modem_passes_and_its_last_line_says_what_the_link_cost(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModemSimulator() as modem:
        assert isinstance(modem, ModemSimulator)
        (place / "anchors").write_text(f"{modem.anchor_line()}\n")
        (place / "map").write_text(f"{modem.imei} EL-0001\n")
        target = f"nrf:{modem.port}?anchors={place}/anchors&map={place}/map"
        modem.faults.silent_for = 1
        code, lines = provision(capsys, "EL-0001", target=f"{target}&answer-s=1")
    assert code == 0, lines
    assert (lines[-1]["status"], lines[-1]["evidence"], lines[-1]["link_repeats"]) == ("pass", "jwt", 1)


def token_target() -> str:
    return f"pkcs11:token={{device_serial}};object=idevid?module-path={MODULE}&pin-source=env:DUT_PIN"


def test_key_born_in_a_token_is_proven_by_a_connection_from_the_token(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_tokens(place / "tokens", monkeypatch)
    make_token("EL-0001")
    monkeypatch.setenv("DUT_PIN", PIN)
    code, lines = provision(capsys, "EL-0001", "--handshake", target=token_target())
    assert (code, lines[-1].get("status"), lines[-1].get("tls_version")) == (0, "pass", "TLSv1.3"), lines
    code, again = provision(capsys, "EL-0001", target=token_target())
    assert (code, again[-1]["status"]) == (0, "already")
    assert PIN not in json.dumps([lines, again])


def test_a_failed_device_ends_with_one_line_of_one_form(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = provision(capsys, "TH-0001", target="files:nowhere/{device_serial}")
    ended = lines[-1]
    assert (code, ended["exit_code"], ended["step"], ended["status"]) == (5, 5, "provision", "failed")
    assert (ended["device_serial"], ended["error"], ended["retry_safe"]) == (
        "TH-0001",
        "target.directory.missing",
        False,
    )
    assert {"ts", "ms", "family", "hint", "facts", "message"} <= set(ended)
    (place / "serials.txt").write_text("TH-0001\n")
    run = ["station", "run", "--devices", "serials.txt", "--target", "files:nowhere/{device_serial}"]
    code, told = called(capsys, *run)
    (same,) = [line for line in told if line["step"] == "provision"]
    assert (code, set(same)) == (5, set(ended))


def test_pooled_key_is_not_put_into_a_token(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_tokens(place / "tokens", monkeypatch)
    make_token("TH-0001")
    monkeypatch.setenv("DUT_PIN", PIN)
    code, lines = provision(capsys, "TH-0001", target=token_target())
    assert (code, lines[-1]["error"]) == (3, "station.key_origin")
    assert provision(capsys, "TH-0001")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["TH-9999"], 3, "device.unknown"),
        (["TH 1"], 3, "device.serial.malformed"),
        (["TH-0001", "--target", "nowhere:x"], 2, "plugin.targets.unknown"),
        (["TH-0001", "--target", "files:out/../TH-0001"], 2, "target.uri.traversal"),
        (["TH-0001", "--target", "files:out/TH-0002"], 4, "device.identity.mismatch"),
        (["TH-0001", "--target", "files:nowhere/TH-0001"], 5, "target.directory.missing"),
        (["TH-0001", "--station", "line9"], 2, "settings.station"),
        (["TH-0001", "--attempt-id", "x"], 3, "attempt.id.malformed"),
        (["EL-0001"], 3, "station.key_origin"),
        (["TH-0001", "--workspace", "nothing"], 2, "workspace.missing"),
    ],
)
def test_every_failure_has_one_code_and_says_what_to_do(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, error: str
) -> None:
    serial, *more = arguments
    target = ["--target", TARGET] if "--target" not in more else []
    got, lines = called(capsys, "station", "provision", "--device-serial", serial, *target, *more)
    assert (got, lines[-1]["error"]) == (code, error)
    assert lines[-1]["hint"].endswith(".")


def test_four_heads_and_a_bad_serial(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = [f"TH-{number:04d}" for number in range(1, 13)]
    Path("list.txt").write_text("\n".join([*devices[:6], "TH-9999", "TH 1", *devices[6:], "TH-0001"]) + "\n")
    options = ["--heads", "4", "--devices", "list.txt", "--target", TARGET]
    code, lines = called(capsys, "station", "run", *options)
    total = lines[-1]
    assert code == 3
    assert (total["passed"], total["failed"]) == (12, 2 if total["already"] else 3)
    assert {"device.unknown", "device.serial.malformed"} <= set(total["codes"])
    passed = [line["cert_sha256"] for line in lines if line.get("status") == "pass" and "cert_sha256" in line]
    assert len(set(passed)) == 12


def test_defect_in_one_head_stops_the_others_and_is_told(place: Path) -> None:
    """A run that goes wrong in a way nobody foresaw must not go on to the end of the list."""
    from birthmark.shell.line.heads import open_heads
    from birthmark.shell.workspace.wiring import open_workspace

    begun: list[str] = []

    def broken(step: Any) -> None:
        begun.append(step.device_serial)
        raise RuntimeError("a defect")

    with open_workspace(Path("fab")) as workspace, open_heads(workspace) as heads:
        devices = [f"TH-{number:04d}" for number in range(1, 13)]
        with pytest.raises(RuntimeError, match="a defect"):
            heads.run(devices, TARGET, heads=2, progress=broken)
    assert len(set(begun)) <= 2


def test_tampering_stops_the_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The vault's slots are exchanged: the first device says so, and no further one is begun."""
    database = sqlite3.connect(place / "fab" / "ledger" / "ledger.db")
    slots, size = database.execute("SELECT slots, slot_size FROM vault").fetchone()
    database.execute("UPDATE vault SET slots = ?", (slots[size:] + slots[:size],))
    database.commit()
    database.close()
    Path("list.txt").write_text("".join(f"TH-{number:04d}\n" for number in range(1, 13)))
    code, lines = called(capsys, "station", "run", "--devices", "list.txt", "--target", TARGET)
    assert (code, lines[-1]["codes"], lines[-1]["devices"]) == (7, {"vault.slot": 1}, 1)


def test_target_for_all_devices_needs_a_placeholder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("TH-0001\nTH-0002\n")
    code, lines = called(capsys, "station", "run", "--devices", "list.txt", "--target", "files:out/TH-0001")
    assert (code, lines[-1]["error"]) == (2, "station.target.one")
    code, lines = called(capsys, "station", "run", "--devices", "missing", "--target", TARGET)
    assert (code, lines[-1]["error"]) == (2, "serials.file")


def test_second_process_with_the_same_journal_is_turned_away(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from birthmark.adapters.journal import FileJournal

    with FileJournal(place / "fab" / "journal" / "line1.jsonl"):
        code, lines = provision(capsys, "TH-0001")
    assert (code, lines[-1]["error"]) == (5, "journal.in_use")


def test_rework_then_scrap(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = provision(capsys, "TH-0001")
    code, (document,) = called(capsys, "device", "rework", "TH-0001", "--reason", "screen replaced")
    assert (code, document["state"]) == (0, "pooled")
    code, second = provision(capsys, "TH-0001")
    assert (code, second[-1]["status"]) == (0, "pass")
    assert second[-1]["cert_serial"] != first[-1]["cert_serial"]
    code, (document,) = called(capsys, "device", "scrap", "TH-0001", "--reason", "burnt")
    assert (code, document["state"], document["revoked"]) == (0, "scrapped", True)
    code, lines = provision(capsys, "TH-0001")
    assert (code, lines[-1]["error"]) == (3, "device.scrapped")


def test_people_see_text_and_no_question_is_asked(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "birthmark.shell.cli.main", "station", "provision", *ONE_DEVICE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASS  TH-0001: certificate ")


def test_pool_path_never_loads_the_linter(place: Path) -> None:
    """One-by-one provisioning has to start fast; pkilint alone takes 0.2 s to import."""
    program = (
        "import sys; from birthmark.shell.cli.main import main;"
        f"code = main(['station', 'provision', '--device-serial', 'TH-0001', '--target', {TARGET!r}]);"
        "assert code == 0; slow = {'pkilint', 'rich', 'pkcs11', 'multiprocessing.pool'} & set(sys.modules);"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bench_says_what_it_measured(tmp_path: Path) -> None:
    result = bench_station(2, 20, parent=tmp_path)
    assert {"bench", "rate", "floor", "ratio", "p50_ms", "p99_ms", "peak_mb"} <= set(result)
    assert (result["bench"], result["heads"], result["count"]) == ("station", 2, 20)
    assert not list(tmp_path.iterdir())


def test_bench_of_the_line_tells_the_two_shares_apart(tmp_path: Path) -> None:
    result = bench_line(4, 40, 24, parent=tmp_path)
    assert (result["bench"], result["heads"], result["link_ms"], result["count"]) == ("line", 4, 40, 24)
    assert result["floor"] == 100.0
    assert 0 < float(str(result["ratio"])) <= 1
    assert float(str(result["device_p50_ms"])) >= 40
    assert 0 < float(str(result["engine_p50_ms"])) <= float(str(result["engine_p99_ms"]))
    assert not list(tmp_path.iterdir())
