"""The evidence report: counted from the log alone, read by tools that are not ours, honest about what is wrong."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from birthmark.model.events import event_types
from birthmark.shell.cli.main import main
from support.opensslwitness import OpensslWitness

BIRTHMARK = str(Path(sys.executable).parent / "birthmark")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "BIRTHMARK_PASSPHRASE": "evidence-passphrase",
    "COLUMNS": "200",
    "LOGNAME": "<b>eve</b>",
    "LANG": "C.UTF-8",
}


class Text(HTMLParser):
    """The text of a page, and every tag that is opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG closes its parts at once."""

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.parts.append(data)

    @property
    def whole(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts))


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIRTHMARK, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
    )


def must(*arguments: str, cwd: Path) -> str:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two orders; of the first three devices are verified, one is scrapped, one is refused."""
    place = tmp_path_factory.mktemp("evidence")
    must("init", "w", "--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999", cwd=place)
    must("ceremony", "run", "w/ceremony.toml", "-C", "w", cwd=place)
    for name, first in (("lot-a", "A-001"), ("lot-b", "B-001")):
        create = ("order", "create", name, "--product", "device", "--quantity", "10", "--first", first)
        must(*create, "-C", "w", cwd=place)
        must("order", "make", name, "--processes", "1", "-C", "w", cwd=place)
    for serial in ("A-001", "A-002", "A-003"):
        (place / "dut" / serial).mkdir(parents=True)
        target = f"files:dut/{serial}"
        must("station", "provision", "--device-serial", serial, "--target", target, "-C", "w", cwd=place)
    must("device", "scrap", "B-001", "--reason", "it fell", "-C", "w", cwd=place)
    assert (
        run(
            "station", "provision", "--device-serial", "X-1", "--target", "files:dut/A-001", "-C", "w", cwd=place
        ).returncode
        == 3
    )
    return place


def page(path: Path) -> Text:
    text = Text()
    text.feed(path.read_text())
    text.close()
    assert text.open == []
    assert text.links == [], "a report refers to nothing outside itself"
    return text


def test_it_counts_what_the_log_says(place: Path) -> None:
    must("audit", "report", "w", "-o", "all.html", cwd=place)
    text = page(place / "all.html").whole
    assert "Every invariant of the record holds" in text
    assert "10 ordered = 3 verified + 7 stock" in text
    assert "10 ordered = 9 stock + 1 scrapped" in text
    assert "20 devices on record, 20 keys reserved, 20 distinct, 0 duplicates" in text
    assert "Installed 3 by files; proven 3 by signature" in text
    assert "device.unknown · 1" in text
    with sqlite3.connect(place / "w/ledger/ledger.db") as database:
        ((entries,),) = database.execute("SELECT size FROM head").fetchall()
    assert f"{entries} events" in text
    assert all(tag in text for tag in event_types()), "each type occurred or is said not to have"
    assert "Nobody: no cosigned head was shown." in text
    assert "Keys made ahead of time come from OpenSSL's generator" in text
    assert "Of keys made elsewhere" not in text
    assert (place / "w" / "log" / "vkey").read_text().strip() in text, "who reads on paper compares the key, too"
    assert "of the whole record" not in text


def test_a_report_about_one_lot_counts_that_lot(place: Path) -> None:
    must("audit", "report", "w", "--order", "lot-b", "-o", "b.html", cwd=place)
    text = page(place / "b.html").whole
    assert "Lot lot-b" in text
    assert (
        "The verdict, the counts of keys, certificates and signatures, and the rows 1, 14 and W are of the whole"
        in text
    )
    assert "lot-a" not in text
    assert "Nothing was installed in this period." in text
    assert "9 stock + 1 scrapped" in text


def test_a_period_without_events_shows_none(place: Path) -> None:
    must("audit", "report", "w", "--until", "2020-01-01", "-o", "none.html", cwd=place)
    text = page(place / "none.html").whole
    assert "0 events" in text
    assert "device.unknown" not in text


def test_an_order_that_is_not_there_is_named(place: Path) -> None:
    done = run("audit", "report", "w", "--order", "lot-z", "-o", "z.html", cwd=place)
    assert done.returncode == 2
    assert "report.order" in done.stderr
    assert run("audit", "report", "w", "--since", "yesterday", cwd=place).returncode == 2
    assert not (place / "z.html").exists()


def test_it_says_who_saw_the_log(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names count only by a policy; without one they are told as names, and what they did not cosign is a violation."""
    shutil.copytree(place / "w", tmp_path / "w")
    log, witness = tmp_path / "w" / "log", OpensslWitness(tmp_path / "o", "w.example")
    note = (log / "checkpoint").read_bytes()
    size = note.split(b"\n")[1].decode()
    (tmp_path / "policy").write_text(f"log {(log / 'vkey').read_text()}witness w {witness.vkey}\nquorum w\n")
    (log / "cosigned").write_bytes(note + witness.line(note, 1_790_000_000))
    seen = f"a head of {size} entries was cosigned by w.example at 2026-09-21T14:13:20Z"
    monkeypatch.setenv("BIRTHMARK_PASSPHRASE", ENVIRONMENT["BIRTHMARK_PASSPHRASE"])
    made = tmp_path / "seen.html"

    def ask(*more: str) -> str:
        assert main(["audit", "report", str(tmp_path / "w"), "-o", str(made), *more]) == 0
        return page(made).whole

    demand = ("--policy", str(tmp_path / "policy"))
    assert f"{seen}; not verified, as no policy says who these are; 0 entries" in ask()
    assert f"{seen}; 0 entries came after it. ✓ shown" in ask(*demand)
    stale = ask(*demand, "--witnessed-within", "24")
    assert "1 violation: do not rely on this record" in stale
    assert "a quorum saw it last at 2026-09-21T14:13:20Z, not within 24 h of now" in stale
    (log / "cosigned").write_bytes(note)
    assert "0 witnesses of the policy have seen this head" in ask(*demand)
    (log / "cosigned").write_bytes(b"nothing\n")
    assert "log/cosigned: " in ask()


def test_the_pdf_says_the_same_to_another_reader(place: Path) -> None:
    must("audit", "report", "w", "-o", "all.pdf", "--pdf", cwd=place)
    read = subprocess.run(
        ["pdftotext", "-layout", "all.pdf", "-"], cwd=place, capture_output=True, text=True, check=True
    )
    assert "Every invariant of the record holds" in read.stdout
    assert "10 ordered = 3 verified + 7 stock" in re.sub(r"\s+", " ", read.stdout)
    facts = subprocess.run(["pdfinfo", "all.pdf"], cwd=place, capture_output=True, text=True, check=True).stdout
    assert "A4" in facts


def test_a_damaged_record_is_not_called_good(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "w", tmp_path / "w")
    with sqlite3.connect(tmp_path / "w/ledger/ledger.db") as database:
        database.execute("UPDATE device SET state = 'verified' WHERE device_serial = 'B-001'")
    must("audit", "report", "w", "-o", "bad.html", cwd=tmp_path)
    text = page(tmp_path / "bad.html").whole
    assert "Every invariant of the record holds" not in text
    assert "1 violation: do not rely on this record" in text
    assert "error I9 audit.fold.device" in text
    assert "B-001" in text
