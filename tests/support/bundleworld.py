"""An authority with a made order, and a site it is assigned to: workspaces on disk, made once and copied."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from birthmark.model.siteevents import SiteMode
from birthmark.shell.bench.pair import assign_order, introduce, make_site
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace

__all__ = ["DEVICES", "FIRST", "GONE", "ORDER", "SITE", "Pair", "build_pair", "call"]

ORDER, SITE, DEVICES, FIRST = "lot", "shenzhen", 600, "TH-0001"
"""Two chunks: one of 512 devices, one of 88."""
GONE = {"TH-0003": "drawn", "TH-0005": "reworked", "TH-0008": "scrapped"}
"""Devices of the first chunk that stay at the authority."""


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Run a command with --json; return its exit code and the last document on stdout."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    lines = capsys.readouterr().out.splitlines()
    return code, json.loads(lines[-1]) if lines else {}


@dataclass(frozen=True)
class Pair:
    """Both places below one directory."""

    root: Path

    @property
    def authority(self) -> Path:
        return self.root / "hq"

    @property
    def site(self) -> Path:
        return self.root / "site"

    @property
    def bundle(self) -> Path:
        return self.root / "stick" / "lot.bundle"

    @property
    def manifest(self) -> Path:
        return self.root / "stick" / "lot.bundle.manifest"

    def copy(self, to: Path) -> Pair:
        shutil.copytree(self.root, to, dirs_exist_ok=True)
        return Pair(to)

    def seal(self, *more: str | Path) -> int:
        """Seal the order through the command."""
        chosen = ("--order", ORDER, "--site", SITE, "-o", str(self.bundle), "-C", str(self.authority), "--json")
        return main(["bundle", "seal", *chosen, *map(str, more)])

    def open(self, *more: str | Path) -> int:
        """Open the bundle at the site through the command."""
        return main(["bundle", "open", str(self.bundle), "-C", str(self.site), "--json", *map(str, more)])


def build_pair(
    root: Path, *, mode: SiteMode = "pool", devices: int = DEVICES, made: bool = True, gone: bool = False
) -> Pair:
    """Make both workspaces and the order; with ``gone`` some of its devices are used at the authority first."""
    pair = Pair(root)
    pair.bundle.parent.mkdir(parents=True)
    make_workspace(pair.authority)
    options = ("-C", str(pair.authority), "--json")
    create = ("order", "create", ORDER, "--product", "device", "--quantity", str(devices), "--first", FIRST)
    assert main([*create, *options]) == 0
    if made:
        assert main(["order", "make", ORDER, "--processes", "1", *options]) == 0
    if gone:
        _use_some(root, options)
    with open_workspace(pair.authority) as authority:
        make_site(pair.site, authority, name=SITE, site_prefix="0202")
        introduce(authority, pair.site, mode=mode)
        assign_order(authority, ORDER, SITE, mode)
    return pair


def _use_some(root: Path, options: tuple[str, ...]) -> None:
    (root / "dut" / "TH-0003").mkdir(parents=True)
    where = ("--device-serial", "TH-0003", "--target", f"files:{root}/dut/TH-0003")
    assert main(["station", "provision", *where, *options]) == 0
    assert main(["device", "rework", "TH-0005", "--reason", "wrong label", *options]) == 0
    assert main(["device", "scrap", "TH-0008", "--reason", "fell down", *options]) == 0
