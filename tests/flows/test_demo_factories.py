"""The demo of the factories: honest devices pass, two factories cheat and are named, and every ledger agrees."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from support.siteworld import openssl, run

BIRTHMARK = str(Path(sys.executable).parent / "birthmark")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("factories")
    done = subprocess.run(
        [BIRTHMARK, "demo-factories"],
        cwd=place,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "demo-factories", done.stdout


def rows(root: Path, query: str) -> list[tuple[object, ...]]:
    """Ask a ledger without the program."""
    database = sqlite3.connect(root / "ledger" / "ledger.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_the_screen_tells_who_passed_and_who_was_caught(shown: tuple[Path, str]) -> None:
    _, screen = shown
    assert re.findall(r"(fab-.): (\d+) passed", screen) == [("fab-a", "10"), ("fab-b", "30"), ("fab-c", "30")]
    assert "went through" not in screen
    assert re.search(r"fab-b\s+site\.device\.foreign\s+x-000001", screen)
    assert re.search(r"fab-c\s+site\.fork\s+c-000001", screen)
    assert re.search(r"fab-b +40 +30 +10 +0 +0 +0 +stopped", screen)
    assert re.search(r"fab-c +200 +30 +0 +170 +0 +0 +stopped", screen)
    assert re.search(r"fab-a +20 +10 +10 +0 +0 +0 +working", screen)


def test_every_ledger_says_so_too(shown: tuple[Path, str]) -> None:
    root, _ = shown
    stopped = rows(root / "authority", "SELECT site, stopped IS NOT NULL FROM site ORDER BY site")
    assert stopped == [("fab-a", 0), ("fab-b", 1), ("fab-c", 1)]
    named = rows(
        root / "authority", "SELECT DISTINCT device_serial FROM finding WHERE device_serial IS NOT NULL ORDER BY 1"
    )
    assert [name for (name,) in named] == [
        *(f"c-{number:06}" for number in (1, 2, 3)), *(f"x-{number:06}" for number in range(1, 6))
    ]  # fmt: skip
    assert rows(root / "authority", "SELECT count(*) FROM device WHERE device_serial LIKE 'x-%'") == [(0,)]
    settled = rows(root / "authority", "SELECT site, count(*) FROM settled GROUP BY site ORDER BY site")
    verified = [
        (
            name,
            rows(root / name, "SELECT count(*) FROM device WHERE state = 'verified' AND device_serial NOT LIKE 'x-%'"),
        )
        for name in ("fab-a", "fab-b", "fab-c")
    ]
    assert settled == [(name, count) for name, ((count,),) in verified] == [("fab-a", 10), ("fab-b", 30), ("fab-c", 30)]


@pytest.mark.parametrize("name", ["authority", "fab-a", "fab-b", "fab-c"])
def test_the_record_holds(shown: tuple[Path, str], name: str) -> None:
    root, _ = shown
    report = verify_workspace(root / name, processes=1)
    assert report.totals == {}
    receipts = {"authority": 70, "fab-a": 10, "fab-b": 35, "fab-c": 30}
    assert report.counts["receipts"] == receipts[name]
    assert run(BIRTHMARK, "ledger", "replay", "-C", root / name)


@pytest.mark.parametrize(
    ("name", "device", "cas"), [("fab-b", "b-000001", "fab-b-ca-1"), ("fab-c", "c-000001", "issuing")]
)
def test_openssl_accepts_a_device_and_its_key(shown: tuple[Path, str], name: str, device: str, cas: str) -> None:
    root, _ = shown
    made = root / "devices" / name / device
    chain = ("-CAfile", root / "authority" / "ca" / "root.pem", "-untrusted", root / name / "ca" / f"{cas}.pem")
    assert "OK" in openssl("verify", "-x509_strict", *chain, made / "device.crt")
    public = openssl("x509", "-in", made / "device.crt", "-noout", "-pubkey")
    assert public == openssl("pkey", "-in", made / "device.key", "-pubout")


def test_openssl_accepts_a_certificate_that_came_over_the_network(shown: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = shown
    device = "a-000001"
    conf = next(path for path in sorted((root / "softhsm").glob("fab-a-*/softhsm2.conf")) if path.is_file())
    out = tmp_path / "device.der"
    pin = (root / "secrets" / "tokens-of-fab-a").read_text()
    run(
        "env", f"SOFTHSM2_CONF={conf}", "pkcs11-tool", "--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label",
        device, "--login", "--pin", pin, "--read-object", "--type", "cert", "--label", "identity", "-o", out,
    )  # fmt: skip
    openssl("x509", "-inform", "DER", "-in", out, "-out", tmp_path / "device.pem")
    chain = ("-CAfile", root / "authority" / "ca" / "root.pem", "-untrusted", root / "authority" / "ca" / "issuing.pem")
    assert "OK" in openssl("verify", "-x509_strict", *chain, tmp_path / "device.pem")


def test_a_twin_holds_the_same_key_and_that_is_what_was_found(shown: tuple[Path, str]) -> None:
    root, _ = shown
    first, second = (
        (root / "devices" / machine / "c-000001" / "device.key").read_bytes() for machine in ("fab-c", "fab-c-copy")
    )
    assert first == second


def test_the_evidence_can_be_read_and_names_the_findings(shown: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = shown
    text = run("pdftotext", "-layout", root / "evidence.pdf", "-")
    page = (root / "evidence.html").read_text()
    assert "findings against sites on record; stopped: fab-b, fab-c" in page, "a verdict alone would mislead"
    assert "Of keys made elsewhere this record shows that they differ, not how they were made." in page
    for said in ("site.fork", "site.order.foreign", "fab-c"):
        assert said in text
        assert said in page


def test_no_word_of_the_evidence_lies_beyond_the_page(shown: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = shown
    run("pdftotext", "-bbox", root / "evidence.pdf", tmp_path / "words.html")
    text = (tmp_path / "words.html").read_text()
    (width,) = {float(found) for found in re.findall(r'<page width="([0-9.]+)"', text)}
    beyond = [word for right, word in re.findall(r'xMax="([0-9.]+)"[^>]*>([^<]*)', text) if float(right) > width]
    assert "stopped:" in text
    assert beyond == []
