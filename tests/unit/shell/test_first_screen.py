"""What somebody sees who does not know birthmark yet: first screen, help, tables, and commands that can be typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from birthmark.shell.cli.following import named_workspace, next_lines, typed_hint
from birthmark.shell.cli.main import main
from birthmark.shell.cli.nouns import NOUNS, first_screen
from birthmark.shell.cli.screen import emit, facts, progress_bar, table


@pytest.mark.parametrize(("asked", "code"), [([], 2), (["--help"], 0), (["-h"], 0), (["help"], 0)])
def test_the_first_screen_shows_every_noun_whatever_help_is_called(
    asked: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked) == code
    said = capsys.readouterr().out
    assert all(f"\n  {noun} " in said for noun in NOUNS)


def test_no_line_of_the_first_screen_is_wider_than_a_terminal_and_none_is_cut() -> None:
    assert max(map(len, first_screen().splitlines())) <= 80
    assert "..." not in first_screen()


def test_the_first_screen_needs_nothing_but_the_names() -> None:
    program = "import sys; from birthmark.shell.cli.main import main; main(['--help']); print('typer' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.endswith("False\n")


def test_help_of_a_noun_says_whole_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "station"]) == 0
    said = capsys.readouterr().out
    assert "..." not in said.partition("Commands:")[2]
    assert "Work through many devices with several heads." in said


@pytest.mark.parametrize(
    "argv", [["order", "list", "-C", "a b"], ["order", "-Ca b"], ["x", "--workspace", "a b"], ["x", "--workspace=a b"]]
)
def test_the_workspace_is_found_however_it_was_named(argv: list[str]) -> None:
    assert named_workspace(argv) == "a b"


def test_a_workspace_that_was_not_named_is_not_added() -> None:
    assert named_workspace(["order", "list"]) is None
    assert named_workspace(["order", "list", "-C"]) is None
    assert typed_hint("Run `birthmark order list`.", None) == "Run `birthmark order list`."


def test_a_hint_names_the_workspace_of_the_command_that_failed() -> None:
    assert typed_hint("Run `birthmark order make lot-1` first.", "a b") == (
        "Run `birthmark order make lot-1 -C 'a b'` first."
    )
    assert typed_hint("Name it as `birthmark order make lot -C x`.", "y") == (
        "Name it as `birthmark order make lot -C x`."
    )
    assert typed_hint("Run `birthmark audit verify`.", "my fab") == "Run `birthmark audit verify 'my fab'`."
    elsewhere = "Ask the authority for one (`birthmark site delegate`)."
    assert typed_hint(elsewhere, "fab") == elsewhere


def test_what_comes_next_names_the_workspace_and_what_others_do_stays() -> None:
    text = "Order lot: made.\nNext: birthmark order make lot\nNext, at the site: birthmark site accept G"
    assert next_lines(text, "fab") == (
        "Order lot: made.\nNext: birthmark order make lot -C fab\nNext, at the site: birthmark site accept G"
    )


def test_a_table_keeps_words_and_numbers_whole_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["order", "product", "devices", "open", "stock", "in\nprogress", "verified", "failed", "scrapped"]
    emit({}, table("Orders", columns, [["lot-1", "thermostat", *["1,000"] * 7]]), as_json=False)
    said = capsys.readouterr().out
    assert all(word in said for column in columns for word in column.split())
    assert "lot-1  thermostat    1,000  1,000" in said
    assert max(map(len, said.splitlines())) <= 80


def test_a_table_in_a_pipe_is_not_folded_and_has_no_escape_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    emit({}, table("Findings", ["law", "what"], [["a", "word " * 60 + "end"]]), as_json=False)
    said = capsys.readouterr().out
    assert "word " * 60 + "end" in said
    assert "\x1b" not in said


def test_facts_are_written_as_people_do(capsys: pytest.CaptureFixture[str]) -> None:
    emit({}, facts("Device", {"revoked": False, "site": None, "orders": ["a", "b"]}), as_json=False)
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()] == [
        ["Device"],
        ["revoked", "no"],
        ["site"],
        ["orders", "a,", "b"],
    ]


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    emit({}, table("Sites", ["site"], []), as_json=False)
    assert capsys.readouterr().out == "Sites\n  none\n"


def test_no_progress_is_drawn_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("making", total=3, quiet=False) as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_an_error_without_a_workspace_says_how_one_is_made_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BIRTHMARK_WORKSPACE", raising=False)
    assert main(["order", "list"]) == 2
    said = capsys.readouterr().err
    assert "`birthmark init DIR --maker NAME`" in said
    assert "-C DIR" in said
