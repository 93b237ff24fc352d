"""Somebody who holds the log's key lies about what clouds were told: every broken law is found."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from support.forgery import Entries, changed, document_of, entry_of, find
from support.ledgerfiles import rewrite_log


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three devices, two of them verified, of which a registry was told."""
    place = tmp_path_factory.mktemp("audit")
    fab = place / "fab"
    make_workspace(fab)
    with (fab / "birthmark.toml").open("a") as file:
        file.write('\n[clouds.registry]\nuri = "export:registry"\n')
    options = ["--product", "device", "--quantity", "3", "--first", "TH-0001", "--key-origin", "device", "--json"]
    assert main(["order", "create", "lot", *options, "-C", str(fab)]) == 0
    for serial in ("TH-0001", "TH-0002"):
        (place / serial).mkdir()
        target = f"files:{place / serial}?key=born"
        command = ["station", "provision", "--device-serial", serial, "--target", target, "--json", "-C", str(fab)]
        assert main(command) == 0
    assert main(["register", "run", "--json", "-C", str(fab)]) == 0
    return fab


@pytest.fixture
def fab(told: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(told, tmp_path / "fab"))


def found(fab: Path, change: Callable[[Entries], Entries]) -> set[str]:
    with open_workspace(fab, publish=False) as opened:
        key, origin = opened.private_key(opened.settings.log.key), opened.settings.origin
    rewrite_log(fab, key, change, origin)
    report = verify_workspace(fab, processes=1)
    return {code for code in report.totals if code != "audit.entry.unpublished"}


def lines(change: Callable[[bytes], bytes], **members: Any) -> Callable[[Entries], Entries]:
    """Return a change of the lines of the ``registered`` entry, with the hash that they then have."""

    def forged(entries: Entries) -> Entries:
        at = find(entries, "registered")
        data = change(entries[at].partition(b"\n")[2])
        document = {**document_of(entries[at]), "lines_sha256": hashlib.sha256(data).hexdigest(), **members}
        entries[at] = entry_of(document, data)
        return entries

    return forged


def test_what_was_told_has_no_findings(fab: Path) -> None:
    assert found(fab, lambda entries: entries) == set()


def test_a_device_that_was_let_in_before_it_was_verified_is_found(fab: Path) -> None:
    assert found(fab, lines(lambda data: data.replace(b"TH-0002", b"TH-0003"))) == {"audit.registered.early"}


def test_an_entry_that_stands_before_the_verification_is_found(fab: Path) -> None:
    def early(entries: Entries) -> Entries:
        entries.insert(find(entries, "verified", device="TH-0001"), entries.pop(find(entries, "registered")))
        return entries

    assert "audit.registered.early" in found(fab, early)


def test_a_blocked_or_refused_device_need_not_be_verified(fab: Path) -> None:
    unverified = b"TH-0001 3 enabled done\nTH-0003 4 enabled refused"
    assert found(fab, lines(lambda data: unverified, refused=1)) == set()


def test_a_device_that_nobody_ordered_is_found(fab: Path) -> None:
    assert "audit.device.unknown" in found(fab, lines(lambda data: data.replace(b"TH-0002", b"XX-0002")))


@pytest.mark.parametrize(
    "change",
    [
        changed("registered")(count=3),
        changed("registered")(refused=1),
        changed("registered")(lines_sha256="00" * 32),
        lines(lambda data: b"\n".join(reversed(data.split(b"\n")))),
        lines(lambda data: data.replace(b"enabled", b"allowed", 1)),
        lines(lambda data: data + b"\n", count=3),
        lines(lambda data: data.replace(b"TH-0002 ", b"TH-0002 99")),
    ],
)
def test_lines_that_do_not_fit_are_found(fab: Path, change: Callable[[Entries], Entries]) -> None:
    assert "audit.registered.lines" in found(fab, change)
