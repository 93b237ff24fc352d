"""Labels: printed for verified devices alone, read by other people's readers, checked before the unit is packed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from birthmark.adapters.labelcodes import datamatrix_modules, png_of, qr_modules
from birthmark.errors import Refused
from birthmark.model.events import Rejected, decode_entry
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.wire.label import label_of, parse_label

TARGET = "files:out/{device_serial}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_workspace(tmp_path / "fab")
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    options = ["--product", "device", "--quantity", "3", "--first", "TH-0001", "--key-origin", "device", "--json"]
    assert main(["order", "create", "lot", *options]) == 0
    for number in (1, 2, 3):
        (tmp_path / "out" / f"TH-{number:04d}").mkdir(parents=True)
    for serial in ("TH-0001", "TH-0002"):
        target = f"{TARGET}?key=born"
        assert main(["station", "provision", "--device-serial", serial, "--target", target, "--json"]) == 0
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def check(capsys: pytest.CaptureFixture[str], label: str, target: str = f"{TARGET}?key=born") -> tuple[int, str]:
    code, document = called(capsys, "label", "check", "--label", label, "--target", target)
    return code, str(document.get("error", document.get("status")))


def printed(capsys: pytest.CaptureFixture[str], serial: str, form: str, output: Path | None = None) -> str:
    more = [] if output is None else ["-o", str(output)]
    code, document = called(capsys, "label", "print", serial, "--form", form, *more)
    assert code == 0, document
    return str(document["label"])


def test_other_readers_read_what_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "TH-0001", "text")
    assert printed(capsys, "TH-0001", "qr", place / "qr.png") == text
    assert printed(capsys, "TH-0001", "datamatrix", place / "dm.png") == text
    said = subprocess.run(["zbarimg", "--quiet", "--raw", "qr.png"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == text
    said = subprocess.run(["dmtxread", "--milliseconds=4000", "dm.png"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == text
    printed(capsys, "TH-0001", "qr", place / "qr.svg")
    assert ElementTree.parse(place / "qr.svg").getroot().tag.endswith("svg")  # noqa: S314
    printed(capsys, "TH-0001", "zpl", place / "label.zpl")
    zpl = (place / "label.zpl").read_text()
    assert (zpl[:4], zpl[-4:]) == ("^XA\n", "^XZ\n")
    assert f"^FD{text}^FS" in zpl
    shown = subprocess.run(
        ["openssl", "x509", "-in", "out/TH-0001/device.crt", "-noout", "-fingerprint", "-sha256"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert text == f"BM1:{shown.partition('=')[2].replace(':', '')[:16]}:TH-0001"


@pytest.mark.parametrize("serial", ["A", "th-1", "A" * 64, "00:1B:44:11:3A:B7"])
def test_codes_of_every_length_are_read(tmp_path: Path, serial: str) -> None:
    label = label_of(serial, b"certificate")
    assert parse_label(label.text + "\r\n") == label
    (tmp_path / "qr.png").write_bytes(png_of(qr_modules(label.text)))
    (tmp_path / "dm.png").write_bytes(png_of(datamatrix_modules(label.text)))
    for command in (["zbarimg", "--quiet", "--raw", "qr.png"], ["dmtxread", "--milliseconds=4000", "dm.png"]):
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == label.text


def test_only_the_label_of_this_unit_lets_it_be_packed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = printed(capsys, "TH-0001", "text"), printed(capsys, "TH-0002", "text")
    assert check(capsys, first) == (0, "pass")
    assert check(capsys, f"{first}\r\n") == (0, "pass")
    # The label of one unit on another, however the scanner was told where the unit is.
    (place / "out" / "TH-0002" / "device-id").write_text("TH-0002\n")
    assert check(capsys, first, "files:out/TH-0002?key=born") == (4, "label.unit")
    mixed = first[:20] + second[20:]
    assert mixed.endswith("TH-0002")
    assert check(capsys, mixed) == (4, "label.record")
    shutil.copytree(place / "out" / "TH-0002", place / "out" / "clone")
    (place / "out" / "clone" / "device-id").write_text("TH-0001\n")
    assert check(capsys, first, "files:out/clone?key=born") == (4, "label.certificate")
    assert check(capsys, "TH-0001") == (3, "label.malformed")
    assert check(capsys, f"BM1:{'0' * 16}:TH-0003") == (3, "label.not_verified")
    assert check(capsys, f"BM1:{'0' * 16}:TH-9999") == (3, "device.unknown")
    code, document = called(capsys, "label", "print", "TH-0003")
    assert (code, document["error"]) == (3, "label.not_verified")
    code, document = called(capsys, "label", "print", "TH-0001", "--form", "tattoo")
    assert (code, document["error"]) == (2, "label.form")
    with open_workspace(place / "fab", publish=False) as opened:
        events = [decode_entry(entry)[0] for _, entry in opened.ledger.entries(0, opened.ledger.head().size)]
    told = [event.code for event in events if isinstance(event, Rejected)]
    assert told == ["label.unit", "label.record", "label.certificate", "label.not_verified", "device.unknown"]


def test_a_reworked_device_needs_a_new_label(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = printed(capsys, "TH-0001", "text")
    assert main(["device", "rework", "TH-0001", "--reason", "scratched", "--json"]) == 0
    assert check(capsys, old) == (3, "label.not_verified")
    again = ["--device-serial", "TH-0001", "--target", f"{TARGET}?key=born"]
    assert main(["station", "provision", *again, "--json"]) == 0
    assert check(capsys, old) == (4, "label.record")
    assert check(capsys, printed(capsys, "TH-0001", "text")) == (0, "pass")


@pytest.mark.parametrize(
    "text", ["", "BM1::SN", "BM2:0000000000000000:SN", "BM1:00000000000000zz:SN", "BM1:" + "0" * 16 + ":"]
)
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_label(text)
