"""An authority and its sites, driven by the real commands in this process; files are what they have in common."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from birthmark.model.events import KeyOrigin
from birthmark.model.ids import OrderId
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.orders.order import NewOrder, create_order, serial_range

__all__ = ["SiteWorld", "make_authority", "openssl", "order_at_site", "run"]

ORIGIN = "hq.example/birthmark"


def order_at_site(site: Path, name: str, first: str, quantity: int = 1, origin: KeyOrigin = "injected") -> None:
    """Write an order into the ledger of a site that its authority did not give: the command refuses to."""
    with open_workspace(site) as opened:
        settings = opened.product("device")
        order = NewOrder(
            order=OrderId(name),
            product="device",
            profile=opened.profile(settings.profile),
            key_algorithm=settings.key_algorithm,
            key_origin=origin,
            ca=settings.ca,
            by="the site",
        )
        create_order(opened.ledger, order, serial_range(first, quantity), clock=opened.clock)


@dataclass
class SiteWorld:
    """``place/hq`` is the authority; sites lie beside it. Commands are called with --json."""

    place: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def hq(self) -> Path:
        return self.place / "hq"

    @property
    def secret(self) -> str:
        """Where the passphrase of every key file is."""
        return f"file:{self.hq / 'secrets' / 'passphrase'}"

    def call(self, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
        """Run a command; return its exit code and the last document it printed."""
        self.capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        lines = self.capsys.readouterr().out.splitlines()
        return code, json.loads(lines[-1]) if lines else {}

    def good(self, *arguments: str | Path) -> dict[str, Any]:
        code, document = self.call(*arguments)
        assert code == 0, document
        return document

    def refused(self, *arguments: str | Path) -> str:
        """Run a command that must fail; return the error code."""
        code, document = self.call(*arguments)
        assert code != 0, document
        return str(document["error"])

    def init(self, name: str, mode: str, *more: str) -> Path:
        """Make a site's workspace; return its request."""
        options = ("--mode", mode, "--authority-origin", ORIGIN, "--secret", self.secret)
        return Path(self.good("site", "init", self.place / name, *options, *more)["request"])

    def add(self, request: Path, *more: str) -> Path:
        """Take a site in; return its grant."""
        url = ("--url", "https://hq.example:8443") if b'"mode":"online"' in request.read_bytes() else ()
        return Path(self.good("site", "add", request, "-C", self.hq, *url, *more)["grant"])

    def accept(self, name: str, grant: Path) -> dict[str, Any]:
        return self.good("site", "accept", grant, "-C", self.place / name)

    def join(self, name: str, mode: str, *more: str) -> Path:
        """Make a site, take it in and let it accept; return its workspace."""
        self.accept(name, self.add(self.init(name, mode, *more)))
        return self.place / name


def make_authority(place: Path, preset: str = "tls-client") -> None:
    """Make the authority's workspace ``place/hq`` with root and issuing CA and one product."""
    make_workspace(place / "hq", preset=preset)


def run(*command: str | Path) -> str:
    """Run a tool that we did not write and return what it prints; it must be content."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def openssl(*arguments: str | Path) -> str:
    """Run OpenSSL and return what it prints."""
    return run("openssl", *arguments)
