"""Receipts cut, edited, carried over to another device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paperlog import ORIGIN, PaperLog, sample_entries

from birthmark.errors import BirthmarkError, Tampered
from birthmark.tlog.merkle import inclusion_proof
from birthmark.tlog.proof import DeviceProof, parse_proof, verify_proof

LOG = PaperLog()
LOG.grow(sample_entries(0, 700))


def prove(index: int, extra: bytes | None = None) -> str:
    hashes = inclusion_proof(index, len(LOG.entries), LOG.reader())
    return DeviceProof(index, tuple(hashes), LOG.head(), extra).render()


TEXT = prove(421)


def test_a_proof_reads_as_the_specification_shows_it():
    lines = prove(421, b"extra data").split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra ZXh0cmEgZGF0YQ==", "index 421"]
    assert lines[3 + 10 :][:3] == ["", ORIGIN, "700"]
    assert TEXT.split("\n")[1] == "index 421"


@given(st.integers(0, 699), st.none() | st.binary(min_size=1, max_size=80))
def test_every_entry_has_a_proof(index, extra):
    text = prove(index, extra)
    assert verify_proof(text, LOG.entries[index], ORIGIN, LOG.vkey).size == 700
    proof = parse_proof(text.encode())
    assert (proof.index, proof.extra) == (index, extra)
    assert proof.render() == text


def test_a_log_of_one_entry_needs_no_hashes():
    log = PaperLog()
    log.grow([b"only"])
    text = DeviceProof(0, (), log.head()).render()
    assert text.startswith("c2sp.org/tlog-proof@v1\nindex 0\n\n" + ORIGIN)
    assert verify_proof(text, b"only", ORIGIN, log.vkey).size == 1


def test_a_proof_is_for_one_entry_only():
    with pytest.raises(Tampered) as caught:
        verify_proof(TEXT, LOG.entries[422], ORIGIN, LOG.vkey)
    assert caught.value.code == "log.proof.inclusion"


@given(st.integers(0, len(TEXT.encode()) * 8 - 1))
def test_no_flipped_bit_passes(bit):
    data = bytearray(TEXT.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Tampered):
        verify_proof(bytes(data), LOG.entries[421], ORIGIN, LOG.vkey)


@given(st.integers(0, len(TEXT.encode()) - 1))
def test_no_cut_passes(end):
    with pytest.raises(Tampered):
        verify_proof(TEXT.encode()[:end], LOG.entries[421], ORIGIN, LOG.vkey)


HASH = TEXT.split("\n")[2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n",
        TEXT.replace("@v1", "@v2"),
        TEXT.replace("index 421", "index 0421"),
        TEXT.replace("index 421", "index +421"),
        TEXT.replace("index 421", "index  421"),
        TEXT.replace("index 421", "index"),
        TEXT.replace("index 421", "index 421 "),
        TEXT.replace("index 421", f"index {2**63}"),
        TEXT.replace("index 421\n", ""),
        TEXT.replace("index 421\n", "extra \nindex 421\n"),
        TEXT.replace("index 421\n", "extra !\nindex 421\n"),
        TEXT.replace("index 421\n", "extra AA==\nextra AA==\nindex 421\n"),
        TEXT.replace("index 421\n", "index 421\nextra AA==\n"),
        TEXT.replace(HASH, HASH[:-1]),
        TEXT.replace(HASH, "AAAA"),
        TEXT.replace(HASH, HASH + " "),
        TEXT.replace(HASH, "\n".join([HASH] * 64)),
        TEXT.replace("\n", "\r\n"),
        TEXT + "x" * 1_000_000,
        TEXT.partition("\n\n")[0] + "\n\n",
        TEXT.encode() + b"\xff",
    ],
)
def test_what_is_not_a_proof_is_rejected(text):
    with pytest.raises(Tampered) as caught:
        parse_proof(text)
    assert caught.value.code == "log.proof.malformed"


@given(st.text() | st.binary() | st.text().map(lambda text: "c2sp.org/tlog-proof@v1\nindex 0\n" + text))
def test_no_text_breaks_the_proof_reader(text):
    with pytest.raises(BirthmarkError):
        verify_proof(text, b"", ORIGIN, LOG.vkey)
