"""Chips that come with an identity: the manifest is taken in, each is bound to one unit, and the audit agrees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.bench.place import make_workspace
from birthmark.shell.cli.main import main
from support.chipvendor import Chip, ChipVendor, self_signed

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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fab")
    make_workspace(place / "fab")
    return place


@pytest.fixture
def fab(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fab:
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.chdir(tmp_path)
    return Fab(tmp_path, capsys)


def test_from_the_manifest_to_a_verified_unit_and_a_clean_audit(fab: Fab) -> None:
    chips = fab.vendor.chips(5)
    manifest = fab.vendor.manifest(fab.place / "manifest.json", chips)
    taken = fab.good("preload", "ingest", "microchip", manifest)
    assert (taken["devices"], taken["new"], len(taken["cas"])) == (5, True, 2)
    assert fab.good("preload", "ingest", "microchip", manifest)["new"] is False
    fab.order("lot1", "PR-0001")
    fab.unit("PR-0001", chips[0])
    code, outcome = fab.station("bind", "PR-0001")
    assert (code, outcome["status"], outcome["evidence"]) == (0, "pass", "signature")
    assert fab.station("bind", "PR-0001")[1]["status"] == "already"
    shown = fab.good("device", "show", "PR-0001")
    assert (shown["state"], shown["key_origin"], shown["vendor"]) == ("verified", "preloaded", "microchip")
    assert shown["unique_id"] == chips[0].unique_id
    assert shown["certificate"] == chips[0].certificate.public_bytes(Encoding.PEM).decode()
    assert fab.good("preload", "show")["vendors"] == [{"vendor": "microchip", "preloaded": 5, "bound": 1}]
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0


def test_a_foreign_identity_is_adopted_once(fab: Fab) -> None:
    fab.order("old", "AD-0001", origin="adopted")
    key = ec.generate_private_key(ec.SECP256R1())
    chip = Chip("none", key, self_signed("anything", key), [])
    fab.unit("AD-0001", chip)
    code, outcome = fab.station("adopt", "AD-0001")
    assert (code, outcome["status"]) == (0, "pass"), outcome
    fab.unit("AD-0002", chip)
    assert fab.station("adopt", "AD-0002")[1]["error"] == "key.reused"
    shown = fab.good("device", "show", "AD-0001")
    assert (shown["key_origin"], shown["cert_sha256"]) == ("adopted", outcome["cert_sha256"])
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0
