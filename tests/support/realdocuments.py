"""One document of every kind, each made by the product's own commands: what strangers' documents are mutated from."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.wire.vault import VaultKey

__all__ = ["Story", "tell_story"]

_EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@dataclass(frozen=True)
class Story:
    """Workspaces ``hq`` (authority) and ``fab`` (site, mode pool), and the files that went between them."""

    place: Path
    vault_key: VaultKey

    @property
    def hq(self) -> Path:
        return self.place / "hq"

    @property
    def fab(self) -> Path:
        return self.place / "fab"

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def examples(self) -> tuple[bytes, ...]:
        """Return the plans of the documentation."""
        return tuple(path.read_bytes() for path in sorted(_EXAMPLES.glob("plan-*.toml")))

    def vkey(self, workspace: str) -> str:
        return self.read(f"{workspace}/log/vkey").decode().strip()


def _run(*arguments: str | Path) -> dict[str, Any]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main([*map(str, arguments), "--json"])
    lines = said.getvalue().splitlines()
    document: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    assert code == 0, (arguments, document)
    return document


def tell_story(place: Path) -> Story:
    """Make an authority and a site, let an order travel, one device be made, and everything come home."""
    make_workspace(place / "hq")
    hq, fab = ("-C", place / "hq"), ("-C", place / "fab")
    with open_workspace(place / "hq", publish=False) as authority:
        origin = authority.settings.origin
    secret = f"file:{(place / 'hq' / 'secrets' / 'passphrase').resolve()}"
    asked = _run("site", "init", place / "fab", "--mode", "pool", "--authority-origin", origin, "--secret", secret)
    shutil.copy(asked["request"], place / "request.note")
    granted = _run("site", "add", place / "request.note", *hq)
    shutil.copy(granted["grant"], place / "grant.note")
    _run("site", "accept", place / "grant.note", *fab)
    _run("order", "create", "lot", "--product", "device", "--quantity", "3", "--first", "TH-0001", "--site", "fab", *hq)
    _run("order", "make", "lot", "--processes", "1", *hq)
    _run("bundle", "seal", "--order", "lot", "--site", "fab", "-o", place / "lot.bundle", *hq)
    _run("bundle", "open", place / "lot.bundle", *fab)
    (place / "dut" / "TH-0001").mkdir(parents=True)
    _run("station", "provision", "--device-serial", "TH-0001", "--target", f"files:{place / 'dut' / 'TH-0001'}", *fab)
    _run("site", "report", "-o", place / "fab.report", *fab)
    told = _run("site", "ingest", place / "fab.report", *hq)
    shutil.copy(told["reports"][0]["ack"], place / "ack.note")
    _run("audit", "prove", "TH-0001", "-o", place / "TH-0001.proof", *fab)
    _run("approval", "plan", "device.rework", "--fact", "device=TH-0002", "--fact", "reason=cracked", "-o",
         place / "rework.plan", *hq)  # fmt: skip
    _run("ca", "crl", "issuing", *hq)
    _run("plan", "--answers", _EXAMPLES / "plan-offline-hsm.toml", "--output", place / "plan.toml")
    with open_workspace(place / "fab", publish=False) as site:
        return Story(place, site.vault_key)
