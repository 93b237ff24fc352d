"""A station provisions devices whose keys are born in an ATECC608, with certificates of a real profile."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.testing.atecc608 import Atecc608
from support.microchip import MicrochipLibrary

LOCKED = "layout=compressed&templates=templates&lock=all&config=birthmark"


@pytest.fixture(params=["tls-client"])
def chips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Atecc608]:
    """A workspace with an order of two chips from the factory, nothing locked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    lower = request.param == "azure-dps"  # its registration ids are in lower case
    made = [Atecc608.create(tmp_path / f"chip-{number}.json", locked=False, sync=False) for number in range(2)]
    names = [chip.serial.lower() if lower else chip.serial for chip in made]
    for chip, name in zip(made, names, strict=True):
        chip.path.rename(tmp_path / f"{name}.json")
    made = [Atecc608(tmp_path / f"{name}.json", sync=False) for name in names]
    make_workspace(tmp_path / "fab", preset=request.param)
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    order = ["order", "create", "lot1", "--product", "device", "--key-origin", "device", "--devices", "list.txt"]
    assert main([*order, "--json"]) == 0
    return made


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def is_done(line: dict[str, Any], status: str) -> bool:
    return line["step"] == "provision" and line["status"] == status


@pytest.mark.parametrize("options", [LOCKED, f"{LOCKED}&chain=none", "layout=der&lock=all&chain=none"])
def test_a_lot_of_chips_from_the_factory_to_pass_and_again(
    chips: list[Atecc608], capsys: pytest.CaptureFixture[str], options: str
) -> None:
    target = f"atecc:0?bus=emulator:{{device_serial}}.json&{options}"
    run = ["station", "run", "--heads", "2", "--devices", "list.txt", "--target", target]
    code, lines = called(capsys, *run)
    assert (code, lines[-1]["passed"]) == (0, 2), json.dumps(lines)[-1500:]
    passed = {line["device_serial"]: line["cert_sha256"] for line in lines if is_done(line, "pass")}
    assert len(set(passed.values())) == 2
    code, lines = called(capsys, *run)
    assert (code, lines[-1]["already"]) == (0, 2)
    assert {line["device_serial"]: line["cert_sha256"] for line in lines if is_done(line, "already")} == passed
    for chip in chips:
        again = Atecc608(chip.path)
        assert again.memory.config_locked
        assert again.memory.data_locked
        assert again.memory.slot_locked(0)
    assert main(["audit", "verify", "fab"]) == 0


@pytest.mark.parametrize("chips", ["tls-client", "idevid", "azure-dps", "aws-iot"], indirect=True)
def test_microchips_library_reads_the_certificate_on_record(
    chips: list[Atecc608], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    serial = chips[0].path.stem
    lower = serial.islower()
    target = f"atecc:0?bus=emulator:{{device_serial}}.json&{LOCKED}&serial={'lower' if lower else 'upper'}"
    code, lines = called(capsys, "station", "provision", "--device-serial", serial, "--target", target)
    assert code == 0, lines
    with Atecc608(chips[0].path) as chip:
        library = MicrochipLibrary(chip)
        read = library.read_certificate(tmp_path / "templates" / "template-0.json", "device", 0, lower=lower)
        library.close()
    assert sha256(read).hexdigest() == lines[-1]["cert_sha256"]


def test_the_wrong_chip_in_the_fixture_is_not_written(
    chips: list[Atecc608], capsys: pytest.CaptureFixture[str]
) -> None:
    before = chips[1].path.read_bytes()
    target = f"atecc:0?bus=emulator:{chips[1].serial}.json&{LOCKED}"
    code, lines = called(capsys, "station", "provision", "--device-serial", chips[0].serial, "--target", target)
    assert (code, lines[-1]["error"]) == (4, "device.identity.mismatch")
    assert chips[1].path.read_bytes() == before
