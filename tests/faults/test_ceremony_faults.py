"""A ceremony is killed at its syncs: the same command goes on or refuses by name, and no CA is half known."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.model.events import CaCreated, CaKeyDestroyed, decode_entry
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.authority.transcript import recorded_part
from support.faultline import KILL, strike

PROGRAM = "import sys\nfrom birthmark.shell.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
STEPS = """format = "birthmark-ceremony/2"
title = "A new issuing CA in place of the old one"
[[step]]
do = "rollover"
name = "issuing2"
replaces = "issuing"
profile = "issuing-ca"
key = "{key}"
key_algorithm = "p256"
[step.values]
maker = "Example Devices"
ca_name = "Issuing CA 2"
[[step]]
do = "destroy"
ca = "issuing"
reason = "replaced"
copies = "none"
"""
CALLS = ("fdatasync", "fsync", "unlink")
STEP = 1 if os.environ.get("BIRTHMARK_FAULTS") == "all" else 3
"""Of the calls each one is struck, or every third."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ceremony")
    make_workspace(made / "fab")
    with open_workspace(made / "fab", publish=False) as opened:
        key = opened.settings.cas["issuing"].key.replace("issuing.pem", "issuing2.pem")
    (made / "next.toml").write_text(STEPS.format(key=key))
    (made / "program.py").write_text(PROGRAM)
    return made


def go_on(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the ceremony once more, whole; return how it was received."""
    capsys.readouterr()
    code = main(["ceremony", "run", str(place / "next.toml"), "-C", str(place / "fab"), "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    if code == 0:
        return "went on"
    assert code == 3, said
    return str(said["error"])


def created(place: Path) -> set[str]:
    with open_workspace(place / "fab", publish=False) as opened:
        return {record.ca for record in opened.records.cas()}


def check(place: Path) -> None:
    """Everything the ceremony says is done, on record and in the files, once."""
    keys = {path.name for path in (place / "fab" / "keys").iterdir()}
    assert "issuing2.pem" in keys
    assert "issuing.pem" not in keys
    with open_workspace(place / "fab") as opened:
        entries = [decode_entry(entry) for _, entry in opened.ledger.entries(0, opened.ledger.head().size)]
    made = [event for event, _ in entries if isinstance(event, CaCreated) and event.ca == "issuing2"]
    destroyed = [(event, text) for event, text in entries if isinstance(event, CaKeyDestroyed)]
    assert len(made) == len(destroyed) == 1
    transcript = (place / "fab" / "ca" / "transcript-issuing2.txt").read_bytes()
    assert recorded_part(transcript)[1] == made[0].transcript_sha256
    assert b"\n  before: file issuing.pem\n" in destroyed[0][1]
    assert (place / "fab" / "ca" / "transcript-issuing-destroyed.txt").read_bytes() == destroyed[0][1]
    assert (place / "fab" / "ca" / "issuing2.pem").exists()
    assert verify_workspace(place / "fab", processes=1).findings == []


def test_a_killed_ceremony_goes_on_or_refuses_by_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends: dict[str, int] = {}
    for call in CALLS:
        for when in range(1, 200, STEP):
            here = tmp_path / f"{call}-{when}"
            shutil.copytree(place, here)
            command = ("ceremony", "run", str(here / "next.toml"), "-C", str(here / "fab"))
            struck, _ = strike(here / "program.py", *command, call=call, fault=KILL, when=when)
            if not struck:
                break
            end = go_on(here, capsys)
            ends[end] = ends.get(end, 0) + 1
            if end == "key.exists":
                assert created(here) == {"root", "issuing"}, "a key nobody certified, and no CA on record"
                (here / "fab" / "keys" / "issuing2.pem").unlink()
                assert go_on(here, capsys) == "went on"
            check(here)
            shutil.rmtree(here)
    assert set(ends) == {"went on", "key.exists", "ceremony.done"}, ends
