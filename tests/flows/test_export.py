"""Any registry can follow: exports from a cursor on, signed, and a log that forks or shrinks is noticed."""

from __future__ import annotations

import csv
import json
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from birthmark.errors import Tampered
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.wire.registry import open_export_manifest

TARGET = "files:out/{device_serial}?key=born"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_workspace(tmp_path / "fab")
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    options = ["--product", "device", "--quantity", "3", "--first", "TH-0001", "--key-origin", "device", "--json"]
    assert main(["order", "create", "lot", *options]) == 0
    for number in (1, 2):
        provision(tmp_path, number)
    return tmp_path


def provision(place: Path, number: int) -> None:
    serial = f"TH-{number:04d}"
    (place / "out" / serial).mkdir(parents=True)
    assert main(["station", "provision", "--device-serial", serial, "--target", TARGET, "--json"]) == 0


def export(capsys: pytest.CaptureFixture[str], output: str, *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["export", "-o", output, "--json", *more])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def lines(place: Path, output: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (place / output / "devices.jsonl").read_text().splitlines()]


def told(place: Path, output: str) -> list[tuple[str, str]]:
    return [(line["change"], line["device_serial"]) for line in lines(place, output)]


def test_verified_devices_alone_are_told_and_openssl_reads_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = export(capsys, "one")
    assert (code, document["verified"]) == (0, 2)
    assert told(place, "one") == [("verified", "TH-0001"), ("verified", "TH-0002")]
    for line in lines(place, "one"):
        shown = subprocess.run(
            ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-serial"],
            input=line["certificate"], text=True, capture_output=True, check=True,
        ).stdout  # fmt: skip
        fingerprint, number = (part.partition("=")[2] for part in shown.splitlines())
        assert fingerprint.replace(":", "").lower() == line["cert_sha256"]
        assert int(number, 16) == int(line["cert_serial"], 16)
    with (place / "one" / "devices.csv").open(newline="") as file:
        assert [row["device_serial"] for row in csv.DictReader(file)] == ["TH-0001", "TH-0002"]
    assert (place / "one" / "certificates.pem").read_text().count("BEGIN CERTIFICATE") == 2


def test_a_cursor_goes_on_where_the_last_export_ended(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first = export(capsys, "one")
    provision(place, 3)
    assert main(["device", "rework", "TH-0001", "--reason", "swapped", "--json"]) == 0
    assert main(["device", "scrap", "TH-0002", "--reason", "dropped", "--json"]) == 0
    _, second = export(capsys, "two", "--since", first["next"])
    found = told(place, "two")
    assert ("verified", "TH-0003") in found
    assert {("superseded", "TH-0001"), ("scrapped", "TH-0002")} <= set(found)
    assert not {("verified", "TH-0001"), ("verified", "TH-0002")} & set(found)
    _, third = export(capsys, "three", "--since", second["next"])
    assert (third["changes"], third["first"]) == (0, second["size"])
    _, whole = export(capsys, "whole")
    assert [serial for change, serial in told(place, "whole") if change == "verified"] == ["TH-0003"]
    assert whole["next"] == third["next"]
    capsys.readouterr()
    assert main(["export", "--since", first["next"]]) == 0
    streamed = capsys.readouterr().out.splitlines()
    assert [json.loads(text) for text in streamed[:-1]] == lines(place, "two")
    assert json.loads(streamed[-1]) == {"next": whole["next"]}


def test_the_manifest_is_signed_and_names_each_octet(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(capsys, "one")
    with open_workspace(place / "fab") as opened:
        vkey = opened.publication.vkey
    note = (place / "one" / "manifest").read_bytes()
    manifest = open_export_manifest(note, vkey)
    for file in manifest.files:
        data = (place / "one" / file.name).read_bytes()
        assert (len(data), sha256(data).hexdigest()) == (file.octets, file.sha256)
    with pytest.raises(Tampered, match=r"document\.signature"):
        open_export_manifest(note.replace(b'"verified":2', b'"verified":3'), vkey)


def test_a_cursor_of_another_log_or_of_a_longer_one_is_noticed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, document = export(capsys, "one")
    name, size, root = document["next"].split(":")
    for cursor, code in (
        (f"{name}:{size}:{'0' * 64}", "cursor.forked"),
        (f"{name}:{int(size) + 5}:{root}", "cursor.rolled_back"),
        (f"{name}:0{size}:{root}", "cursor.malformed"),
        ("", "cursor.malformed"),
    ):
        assert export(capsys, "bad", "--since", cursor)[1]["error"] == code
        assert not (place / "bad").exists()
    assert export(capsys, "one")[1]["error"] == "export.exists"


def test_what_a_power_cut_left_behind_is_replaced(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / ".one.new").mkdir()
    (place / ".one.new" / "devices.jsonl").write_text("half a li")
    assert export(capsys, "one")[0] == 0
    assert len(told(place, "one")) == 2
    assert not (place / ".one.new").exists()
