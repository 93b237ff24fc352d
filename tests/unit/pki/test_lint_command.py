"""``birthmark profile``: the lint as a person and as a program see it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from birthmark.pki.profile import preset_names
from birthmark.shell.cli.main import main

PRESETS = resources.files("birthmark.pki").joinpath("presets")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, object]]:
    status = main(["profile", *arguments])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", preset_names())
def test_preset_lints_clean(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, document = run(capsys, "lint", name, "--json")
    assert (status, document["clean"], document["profile"]) == (0, True, name)


def test_profile_file_with_errors_ends_in_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    text = PRESETS.joinpath("azure-dps.toml").read_text().replace('unique = "case-insensitive"', "")
    file.write_text(text)
    status, document = run(capsys, "lint", str(file), "--json")
    assert status == 3
    worst = document["findings"][0]
    assert (worst["code"], worst["severity"], worst["source"]) == ("profile.azure_name", "error", "birthmark")
    assert worst["citation"].startswith("Azure IoT DPS")


def test_missing_exception_shows_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    text = PRESETS.joinpath("idevid.toml").read_text()
    file.write_text(text[: text.index("[[exceptions]]")])
    assert main(["profile", "lint", str(file)]) == 3
    shown = capsys.readouterr().out
    assert "pkix.certificate_skid_end_entity_missing" in shown
    assert "1 to mend" in shown


def test_accepted_finding_shows_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "lint", "idevid"]) == 0
    assert "accepted, since: 802.1AR" in capsys.readouterr().out


def test_unknown_preset_unreadable_file_and_wrong_option_end_in_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in (
        (("lint", "nothing", "--json"), "profile.preset.unknown"),
        (("lint", str(tmp_path / "no.toml"), "--json"), "profile.file"),
        (("lint", str(tmp_path) + "/", "--json"), "profile.file"),
        (("lint", "idevid", "--value", "maker", "--json"), "profile.value_option"),
    ):
        status, document = run(capsys, *arguments)
        assert (status, document["error"]) == (2, code)


def test_value_of_a_placeholder_reaches_the_specimen(capsys: pytest.CaptureFixture[str]) -> None:
    status, document = run(capsys, "lint", "matter-dac", "--value", "vid=zzzz", "--json")
    assert (status, document["error"]) == (2, "template.value.malformed")


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    _, document = run(capsys, "list", "--json")
    assert [preset["name"] for preset in document["presets"]] == list(preset_names())
    _, shown = run(capsys, "show", "aws-iot")
    assert shown["name"] == "aws-iot"
