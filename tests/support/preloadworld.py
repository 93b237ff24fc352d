"""A workspace that knows a chip vendor, and units on its bench, driven through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main
from birthmark.shell.workspace.wiring import open_workspace
from support.chipvendor import Chip, ChipVendor

__all__ = ["TARGET", "Fab"]

TARGET = "files:out/{device_serial}"


class Fab:
    """A workspace that knows one vendor, and the units on its bench."""

    def __init__(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.capsys = place, capsys
        self.vendor = ChipVendor()
        self.vendor.settle(place / "fab")

    def call(self, *arguments: str | Path) -> tuple[int, Any]:
        self.capsys.readouterr()
        code = main([*map(str, arguments), "-C", str(self.place / "fab"), "--json"])
        out = self.capsys.readouterr().out.splitlines()
        return code, json.loads(out[-1]) if out else None

    def good(self, *arguments: str | Path) -> Any:
        code, document = self.call(*arguments)
        assert code == 0, document
        return document

    def order(self, name: str, first: str, quantity: int = 4, origin: str = "preloaded") -> None:
        wish = ("--quantity", str(quantity), "--first", first, "--key-origin", origin)
        self.good("order", "create", name, "--product", "device", *wish)

    def unit(self, device_serial: str, chip: Chip) -> Path:
        return chip.put_into(self.place / "out" / device_serial)

    def station(self, verb: str, device_serial: str, *more: str) -> tuple[int, Any]:
        return self.call("station", verb, "--device-serial", device_serial, "--target", TARGET, *more)

    def audited(self) -> list[tuple[str, str]]:
        report = verify_workspace(self.place / "fab", processes=1)
        return [(finding.code, finding.what) for finding in report.findings if finding.severity != "info"]

    def entries(self) -> int:
        with open_workspace(self.place / "fab", publish=False) as opened:
            return int(opened.ledger.head().size)

    def refused(self, code: str, path: Path, *more: str) -> None:
        before = self.entries()
        status, problem = self.call("preload", "ingest", self.vendor.name, path, *more)
        assert status != 0, problem
        assert problem["error"] == code
        assert self.entries() == before, "a refused file leaves nothing"

    def ready(self, count: int = 3) -> list[Chip]:
        chips = self.vendor.chips(count)
        self.good("preload", "ingest", self.vendor.name, self.vendor.manifest(self.place / "lot.json", chips))
        self.order("lot1", "PR-0001")
        return chips
