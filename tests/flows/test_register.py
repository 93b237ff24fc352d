"""Clouds are told by commands: planned, run, parked, changed behind our back, reconciled, and repaired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace

TARGET = "files:out/{device_serial}?key=born"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_workspace(tmp_path / "fab")
    with (tmp_path / "fab" / "birthmark.toml").open("a") as file:
        file.write('\n[clouds.registry]\nuri = "export:registry"\n')
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    options = ["--product", "device", "--quantity", "4", "--first", "TH-0001", "--key-origin", "device", "--json"]
    assert main(["order", "create", "lot", *options]) == 0
    for number in (1, 2, 3):
        provision(tmp_path, number)
    return tmp_path


def provision(place: Path, number: int) -> None:
    serial = f"TH-{number:04d}"
    (place / "out" / serial).mkdir(parents=True, exist_ok=True)
    assert main(["station", "provision", "--device-serial", serial, "--target", TARGET, "--json"]) == 0


def lines(place: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (place / "fab" / "registry" / "devices.jsonl").read_text().splitlines()]


def ask(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main([*command, "--json"])
    return code, [json.loads(text) for text in capsys.readouterr().out.splitlines()]


def run(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code, documents = ask(capsys, "register", "run")
    assert code == 0
    (cloud,) = documents[0]["clouds"]
    return dict(cloud)


def test_what_is_new_is_told_once_and_what_ended_is_blocked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"done": 3, "left": 0, "calls": 1}.items() <= run(capsys).items()
    assert [(one["device_serial"], one["standing"]) for one in lines(place)] == [
        ("TH-0001", "enabled"), ("TH-0002", "enabled"), ("TH-0003", "enabled"),
    ]  # fmt: skip
    again = run(capsys)
    assert (again["done"], again["calls"]) == (0, 0)
    assert ask(capsys, "device", "show", "TH-0001")[1][0]["cloud export:registry"] == "settled: enabled, done"
    assert main(["device", "rework", "TH-0001", "--reason", "swapped", "--json"]) == 0
    assert main(["device", "scrap", "TH-0002", "--reason", "dropped", "--json"]) == 0
    provision(place, 4)
    assert run(capsys)["done"] == 3
    latest = {one["device_serial"]: one for one in lines(place)}
    standings = {serial: one["standing"] for serial, one in latest.items()}
    assert standings == {"TH-0001": "blocked", "TH-0002": "blocked", "TH-0003": "enabled", "TH-0004": "enabled"}
    assert all(one["certificates"] for one in latest.values())
    provision(place, 1)
    assert run(capsys)["done"] == 1
    assert lines(place)[-1]["standing"] == "enabled"
    assert lines(place)[-1]["certificates"] != latest["TH-0001"]["certificates"]


def test_a_plan_counts_what_is_due_or_what_it_is_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, (plan,) = ask(capsys, "register", "plan", "registry")
    assert (code, plan["devices"], plan["calls"], plan["authorities"]) == (0, 3, 1, 1)
    many = ["--devices", "1000000", "--authorities", "7"]
    code, (plan,) = ask(capsys, "register", "plan", "--cloud", "export:elsewhere", *many)
    assert (code, plan["devices"], plan["calls"], plan["authorities"]) == (0, 1_000_000, 2000, 7)
    assert plan["minutes"] > 0
    assert not (place / "fab" / "elsewhere").exists()
    assert ask(capsys, "register", "plan")[1][0]["error"] == "register.plan.cloud"
    assert ask(capsys, "register", "plan", "--cloud", "export:x")[1][0]["error"] == "register.plan.devices"
    assert ask(capsys, "register", "plan", "nowhere")[1][0]["error"] == "settings.cloud"


def test_what_was_changed_behind_our_back_is_named_and_repaired(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys)
    assert ask(capsys, "register", "reconcile", "registry")[0] == 0
    path = place / "fab" / "registry" / "devices.jsonl"
    one, two, three = path.read_bytes().splitlines(keepends=True)
    foreign = three.replace(b"TH-0003", b"XX-0001")
    path.write_bytes(two.replace(b'"enabled"', b'"blocked"') + three + foreign)
    del one
    code, found = ask(capsys, "register", "reconcile", "registry")
    assert code == 7
    assert {(line["kind"], line["name"]) for line in found if "kind" in line} == {
        ("missing", "TH-0001"), ("different", "TH-0002"), ("foreign", "XX-0001"),
    }  # fmt: skip
    assert ask(capsys, "register", "reconcile", "registry", "--repair")[0] == 7, "what is foreign stays"
    assert run(capsys)["done"] == 2
    code, found = ask(capsys, "register", "reconcile", "registry")
    assert [line["name"] for line in found if "kind" in line] == ["XX-0001"]


def test_a_book_belongs_to_one_cloud(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    settings = place / "fab" / "birthmark.toml"
    settings.write_text(settings.read_text().replace("export:registry", "export:another"))
    code, documents = ask(capsys, "register", "run")
    assert (code, documents[-1]["error"]) == (2, "register.book.cloud")


def test_another_scope_is_told_from_the_start_of_the_log(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = place / "fab" / "birthmark.toml"
    settings.write_text(settings.read_text() + "products = []\n")
    assert run(capsys)["done"] == 0
    settings.write_text(settings.read_text().replace("products = []\n", 'products = ["device"]\n'))
    assert run(capsys)["done"] == 3


def test_people_see_tables(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["register", "prepare", "registry"]) == 0
    assert "Next: birthmark register run registry" in capsys.readouterr().out
    assert main(["register", "plan", "registry"]) == 0
    assert "together" in capsys.readouterr().out
    assert main(["register", "run"]) == 0
    assert "Next: birthmark register reconcile registry" in capsys.readouterr().out
    assert main(["register", "reconcile", "registry"]) == 0
    assert "3 alike" in capsys.readouterr().out
    assert main(["register", "parked", "registry"]) == 0
    assert "No device of registry is parked" in capsys.readouterr().out
    assert main(["register", "parked", "registry", "--retry"]) == 0
