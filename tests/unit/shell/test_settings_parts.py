"""Settings that commands write beside the file that people edit."""

from __future__ import annotations

from pathlib import Path

import pytest

from birthmark.errors import Misconfigured
from birthmark.shell.workspace.config import load_settings, parse_settings

MAIN = """format = "birthmark-workspace/1"
name = "fab"
origin = "hq.example/site/fab"
site_prefix = "0a0b"
role = "site"
[site]
authority = "hq.example/log"
mode = "pool"
[log]
key = "file:keys/log.pem?secret=none"
[vault]
file = "keys/vault.pem"
secret = "env:X"
[cas.own]
key = "file:keys/own.pem?secret=none"
"""
PART = 'format = "birthmark-settings/1"\n'


def workspace(root: Path, **parts: str) -> Path:
    (root / "birthmark.toml").write_text(MAIN)
    (root / "settings.d").mkdir()
    for name, text in parts.items():
        (root / "settings.d" / f"{name}.toml").write_text(PART + text)
    return root


def code_of(root: Path) -> str:
    with pytest.raises(Misconfigured) as refusal:
        load_settings(root)
    return refusal.value.code


def test_parts_add_to_the_settings(tmp_path: Path) -> None:
    product = '[products.device]\nprofile = "p"\nca = "own"\nkey_algorithm = "p256"\n'
    station = '[stations.line9]\nkey = "file:keys/s.pem?secret=none"\njournal = "journal/line9.jsonl"\n'
    authority = '[authority]\nurl = "https://hq.example"\nservice_ca = "tls/service-ca.pem"\n'
    settings = load_settings(workspace(tmp_path, grant=authority + product, station=station))
    assert settings.products["device"].ca == "own"
    assert settings.stations["line9"].tls_key is None
    assert settings.authority is not None
    assert settings.authority.url == "https://hq.example"
    assert list(settings.cas) == ["own"]


def test_two_files_never_say_the_same_thing(tmp_path: Path) -> None:
    again = '[cas.own]\nkey = "file:keys/other.pem?secret=none"\n'
    assert code_of(workspace(tmp_path, other=again)) == "settings.twice"


def test_an_authority_stands_once(tmp_path: Path) -> None:
    authority = '[authority]\nurl = "https://hq.example"\nservice_ca = "tls/service-ca.pem"\n'
    assert code_of(workspace(tmp_path, a=authority, b=authority)) == "settings.twice"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('role = "authority"\n', "settings.malformed"),
        ("[log]\nkey = 'x'\n", "settings.malformed"),
        ("[cas.own\n", "settings.malformed"),
    ],
)
def test_a_part_holds_nothing_else(tmp_path: Path, text: str, code: str) -> None:
    assert code_of(workspace(tmp_path, bad=text)) == code


def test_a_part_of_another_format_is_refused(tmp_path: Path) -> None:
    root = workspace(tmp_path)
    (root / "settings.d" / "x.toml").write_text('format = "birthmark-workspace/1"\n')
    assert code_of(root) == "settings.format"


def test_a_part_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    root = workspace(tmp_path, open="")
    (root / "settings.d" / "open.toml").chmod(0o666)
    assert code_of(root) == "settings.writable"


@pytest.mark.parametrize("text", [MAIN.replace('role = "site"\n', ""), MAIN.replace("[site]\n", "[authority]\n")])
def test_the_role_and_its_table_belong_together(text: str) -> None:
    with pytest.raises(Misconfigured) as refusal:
        parse_settings(text.encode(), "here")
    assert refusal.value.code in ("settings.role", "settings.malformed")
