"""People who approve: each with an Ed25519 key of their own in an encrypted file."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from birthmark.shell.cli.main import main

__all__ = ["OPERATOR", "Desk"]

OPERATOR = pwd.getpwuid(os.getuid()).pw_name


class Desk:
    """Runs commands with ``--json`` in a directory that holds a workspace ``fab`` and the keys of people."""

    def __init__(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self.fab = place / "fab"
        self._capsys = capsys
        (place / "people").mkdir(exist_ok=True)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run one command; return exit code and the last document it printed."""
        self._capsys.readouterr()
        code = main([*arguments, "--json"])
        lines = self._capsys.readouterr().out.splitlines()
        return code, json.loads(lines[-1]) if lines else {}

    def good(self, *arguments: str) -> dict[str, Any]:
        code, document = self.run(*arguments)
        assert code == 0, document
        return document

    def refused(self, code: str, *arguments: str) -> dict[str, Any]:
        _, document = self.run(*arguments)
        assert document.get("error") == code, document
        return document["facts"]

    def key(self, name: str) -> str:
        return f"file:{self.place}/people/{name}.pem?secret=env:PERSON_SECRET"

    def person(self, name: str) -> str:
        """Make a person's key and return its verifier key."""
        vkey: str = self.good("approval", "key", "--key", self.key(name), "--name", name, "--new")["vkey"]
        return vkey

    def sign(self, plan: Path, name: str, *, using: str | None = None) -> None:
        self.good("approval", "sign", str(plan), "--key", self.key(using or name), "--name", name)

    def set_rule(self, threshold: int, *vkeys: str) -> tuple[str, ...]:
        named = [word for vkey in vkeys for word in ("--approver", vkey)]
        return ("approval", "set", "--threshold", str(threshold), *named, "-C", str(self.fab))
