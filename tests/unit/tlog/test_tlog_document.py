"""The format page is the format: its example and its codes are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from paperlog import ORIGIN, PaperLog

from birthmark.tlog.merkle import inclusion_proof
from birthmark.tlog.proof import DeviceProof, verify_proof

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/formats/log.md").read_text(encoding="utf-8")
VKEY, BUNDLE, TILE, PROOF = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_of_the_page_is_what_we_write(paper_log: PaperLog):
    paper_log.grow([b"one", b"two", b"three"])
    assert paper_log.vkey == VKEY.strip()
    assert paper_log.files["tile/entries/000.p/3"] == bytes.fromhex(BUNDLE)
    assert paper_log.files["tile/0/000.p/3"] == bytes.fromhex(TILE)
    hashes = inclusion_proof(1, 3, paper_log.reader())
    assert DeviceProof(1, tuple(hashes), paper_log.head()).render() == PROOF


def test_the_example_of_the_page_is_what_we_read():
    assert verify_proof(PROOF, b"two", ORIGIN, VKEY.strip()).size == 3


def test_every_code_of_this_package_stands_on_the_page():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src/birthmark/tlog").glob("*.py")]
    raised = set(re.findall(r'"(log\.[a-z]+\.[a-z]+)",\n', "".join(sources)))
    table = PAGE.partition("## What a reader refuses")[2]
    assert raised == set(re.findall(r"`(log\.[a-z.]+)`", table))
