"""``station provision --rehearse``: the production path on a stand-in; nothing real is touched."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from support.devicetoken import make_token, start_tokens
from support.softhsm import MODULE, PIN

TARGET = "files:out/{device_serial}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an order whose identities are NOT made, and one whose keys are born in the devices."""
    place = tmp_path_factory.mktemp("rehearsal")
    make_workspace(place / "fab")
    options = ["--product", "device", "-C", str(place / "fab"), "--json"]
    assert main(["order", "create", "lot1", "--quantity", "2", "--first", "TH-0001", *options]) == 0
    born = ["--quantity", "2", "--first", "EL-0001", "--key-origin", "device"]
    assert main(["order", "create", "lot2", *born, *options]) == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for serial in ("TH-0001", "EL-0001"):
        (tmp_path / "out" / serial).mkdir(parents=True)
    return tmp_path


def rehearsed(capsys: pytest.CaptureFixture[str], serial: str, target: str, *more: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["station", "provision", "--device-serial", serial, "--target", target, "--rehearse", "--json", *more])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def everything_real(place: Path) -> dict[str, Any]:
    """Return every file of the workspace but SQLite's own, what the ledger says, and what the devices hold."""
    files = {
        str(path.relative_to(place)): (path.read_bytes(), path.stat().st_mtime_ns)
        for root in ("fab", "out")
        for path in (place / root).rglob("*")
        if path.is_file() and "ledger.db" not in path.name
    }
    with sqlite3.connect(f"file:{place}/fab/ledger/ledger.db?mode=ro", uri=True) as database:
        files["dump"] = list(database.iterdump())
    database.close()
    return files


@pytest.mark.parametrize(
    ("serial", "target", "writes"),
    [
        ("TH-0001", TARGET, ["write out/TH-0001/device.key", "write out/TH-0001/device.crt"]),
        ("EL-0001", f"{TARGET}?layout=der&key=born", [
            "write out/EL-0001/device.key.der", "write out/EL-0001/chain0.crt.der", "write out/EL-0001/device.crt.der"
        ]),
        ("TH-0001", f"{TARGET}?layout=p12&p12-secret=env:REHEARSAL_P12", ["write out/TH-0001/device.p12"]),
    ],
)  # fmt: skip
def test_files_are_rehearsed_and_nothing_real_is_touched(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, serial: str, target: str,
    writes: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("REHEARSAL_P12", "a phrase of a test")
    before = everything_real(place)
    code, told = rehearsed(capsys, serial, target)
    assert (code, told["status"], told["evidence"]) == (0, "pass", "signature")
    assert told["rehearsed"]["target"] == target.replace("{device_serial}", serial)
    assert told["rehearsed"]["would_write"] == writes
    assert told["rehearsed"]["would_not_undo"] == []
    assert everything_real(place) == before
    assert os.listdir(place / "tmp") == []


def test_people_are_told_plainly(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["station", "provision", "--device-serial", "TH-0001", "--target", TARGET, "--rehearse"]) == 0
    told = capsys.readouterr().out
    assert "REHEARSED  TH-0001 on a stand-in; nothing real was touched or recorded" in told
    assert "production would write out/TH-0001/device.crt" in told
    assert "production would burn and lock nothing" in told
    assert "PASS" not in told


def test_what_is_wrong_with_the_production_settings_shows_in_the_rehearsal(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = rehearsed(capsys, "TH-0001", f"{TARGET}?key=born")
    assert (code, told["error"]) == (3, "station.key_origin")
    code, told = rehearsed(capsys, "TH-0001", f"{TARGET}?mode=0666")
    assert (code, told["error"]) == (2, "target.uri.option")
    code, told = rehearsed(capsys, "TH-9999", TARGET)
    assert (code, told["error"]) == (3, "device.unknown")
    settings = place / "fab" / "birthmark.toml"
    settings.write_text(
        settings.read_text().replace('key_algorithm = "p256"', 'key_algorithm = "p256"\nresidency = "attested"')
    )
    code, told = rehearsed(capsys, "EL-0001", f"{TARGET}?key=born")
    assert (code, told["error"]) == (3, "station.residency")
    (place / "fab" / "profiles" / "tls-client.toml").write_text("format = 1")
    before = everything_real(place)
    assert rehearsed(capsys, "TH-0001", TARGET)[0] == 2
    assert everything_real(place) == before
    assert os.listdir(place / "tmp") == []


def test_a_token_is_rehearsed_only_on_one_that_was_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_tokens(place / "tokens", monkeypatch)
    make_token("EL-0001")
    monkeypatch.setenv("DUT_PIN", PIN)
    production = "pkcs11:token=EL-0001;object=idevid?module-path=/usr/lib/vendor.so&pin-source=env:NOT_SET"
    stand_in = f"pkcs11:token=EL-0001;object=idevid?module-path={MODULE}&pin-source=env:DUT_PIN"
    code, told = rehearsed(capsys, "EL-0001", production)
    assert (code, told["error"]) == (3, "rehearsal.impossible")
    code, told = rehearsed(capsys, "EL-0001", stand_in, "--rehearse-on", stand_in)
    assert (code, told["error"]) == (3, "rehearsal.target")
    before = everything_real(place)
    code, told = rehearsed(capsys, "EL-0001", production, "--rehearse-on", stand_in)
    assert (code, told["status"], told["rehearsed"]["stand_in"]) == (0, "pass", stand_in)
    assert everything_real(place) == before


def test_a_stand_in_that_is_the_real_device_in_other_words_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_real(place)
    for named in ("files:out/TH-0001", f"files:{place}/out//TH-0001?layout=der"):
        code, told = rehearsed(capsys, "TH-0001", TARGET, "--rehearse-on", named)
        assert (code, told["error"]) == (3, "rehearsal.target")
    assert everything_real(place) == before


def test_a_rehearsal_does_not_open_the_device_to_ask_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["station", "provision", "--identify", "--target", "files:out/TH-0001", "--rehearse", "--json"])
    assert (code, json.loads(capsys.readouterr().out)["error"]) == (2, "rehearsal.device")


ESP_LOCKED = "esp:out/{device_serial}?key=ecdsa&chip=esp32h2&efuse=efuse.bin&flash=flash.bin"


def test_the_locked_path_of_an_esp_chip_is_tried_on_virtual_fuses(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything_real(place)
    code, told = rehearsed(capsys, "TH-0001", ESP_LOCKED)
    assert (code, told["status"]) == (0, "pass"), told
    assert told["rehearsed"]["would_not_undo"] == ["burn the key of key=ecdsa into the fuses efuse.bin of TH-0001"]
    assert everything_real(place) == before


def test_the_locked_path_of_a_secure_element_is_tried_on_an_emulated_chip(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chip = "0123A1B2C3D4E5F6EE"
    (place / "chips.txt").write_text(f"{chip}\n")
    order = ["order", "create", "chips", "--product", "device", "--devices", "chips.txt", "--key-origin", "device"]
    assert main([*order, "--json"]) == 0
    target = "atecc:0?bus=i2c:1&templates=templates&lock=all&config=birthmark"
    before = everything_real(place)
    code, told = rehearsed(capsys, chip, target)
    assert (code, told["status"]) == (0, "pass"), told
    assert "lock the data zone" in told["rehearsed"]["would_not_undo"]
    assert everything_real(place) == before
    assert not (place / "templates").exists()
    code, told = rehearsed(capsys, chip, "atecc:0?bus=i2c:1&templates=templates")
    assert (code, told["error"]) == (3, "rehearsal.impossible")
