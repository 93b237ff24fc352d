"""Documentation cannot lie: what exists is documented, and the reference is what the code says today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import make_docs  # noqa: E402


@pytest.mark.parametrize("name", sorted(make_docs.PAGES))
def test_the_reference_is_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text()
    assert written == make_docs.PAGES[name](), "run `make docs`"


def test_every_error_code_is_a_dotted_literal_with_one_family() -> None:
    codes = make_docs.error_codes()
    assert len(codes) > 50
    assert all(make_docs._CODE.fullmatch(code) for code in codes), sorted(codes)


def test_every_command_has_help_for_itself_and_each_parameter() -> None:
    import typer.main

    from birthmark.shell.cli.main import build_app
    from birthmark.shell.cli.nouns import NOUNS

    root = typer.main.get_command(build_app(list(NOUNS)))
    commands = list(make_docs.walk_commands("birthmark", root))
    assert len(commands) > 10
    for path, command in commands:
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


def test_links_between_pages_lead_somewhere() -> None:
    import re

    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
