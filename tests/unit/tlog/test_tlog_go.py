"""Go's sumdb reads what we write, and finds what was done to it."""

from __future__ import annotations

import base64

import pytest
from paperlog import ORIGIN, PaperLog, sample_entries

from birthmark.tlog.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hashes
from birthmark.tlog.proof import DeviceProof
from support.golog import GoRefused, read_log

STEPS = [0, 1, 2, 3, 255, 256, 257, 511, 512, 513, 1025]


@pytest.fixture(scope="module")
def stations():
    """The head of one log at every size, as a list of (log at that size, former sizes)."""
    logs = []
    for size in STEPS:
        log = PaperLog()
        log.grow(sample_entries(0, size // 3))
        log.grow(sample_entries(size // 3, size))
        logs.append(log)
    return logs


@pytest.mark.parametrize("at", range(len(STEPS)))
def test_go_reads_our_log_of_every_size(stations, go_reader, tmp_path, at):
    log, size = stations[at], STEPS[at]
    directory = log.write(tmp_path)
    report = read_log(go_reader, directory, log.vkey, old=size // 3)
    assert (report["origin"], report["size"], report["root"]) == (ORIGIN, size, log.frontier.root().hex())
    assert (report["entries"], report["inclusions"], report["consistency"]) == (size, size, True)
    assert report["old_root"] == Frontier().extend(leaf_hashes(log.entries[: size // 3])).root().hex()


@pytest.mark.parametrize("old", [1, 2, 3, 128, 255, 256, 257, 512, 600, 1024, 1025])
def test_go_accepts_our_consistency_proofs(stations, go_reader, tmp_path, old):
    log = stations[-1]
    proof = consistency_proof(old, 1025, log.reader())
    directory = log.write(tmp_path)
    read_log(go_reader, directory, log.vkey, old=old, sample=1, consistency=proof)
    with pytest.raises(GoRefused, match="growth"):
        read_log(go_reader, directory, log.vkey, old=old, sample=1, consistency=[*proof, bytes(32)])


@pytest.mark.parametrize("index", [0, 1, 255, 256, 511, 512, 1023, 1024])
def test_go_accepts_our_device_proofs(stations, go_reader, tmp_path, index):
    log = stations[-1]
    hashes = inclusion_proof(index, 1025, log.reader())
    proof, entry = tmp_path / "device.tlog-proof", tmp_path / "entry"
    extra = b"anything" if index % 2 else None
    proof.write_text(DeviceProof(index, tuple(hashes), log.head(), extra).render(), encoding="utf-8")
    entry.write_bytes(log.entries[index])
    assert read_log(go_reader, None, log.vkey, proof=proof, entry=entry)["proof"] is True
    entry.write_bytes(log.entries[index] + b" ")
    with pytest.raises(GoRefused, match="tlog-proof"):
        read_log(go_reader, None, log.vkey, proof=proof, entry=entry)


def test_go_reads_a_log_with_three_levels_of_tiles(go_reader, tmp_path):
    log, size = PaperLog(), 65536 + 3
    log.grow(sample_entries(0, 50_000))
    log.grow(sample_entries(50_000, size))
    report = read_log(
        go_reader,
        log.write(tmp_path),
        log.vkey,
        old=50_000,
        sample=500,
        consistency=consistency_proof(50_000, size, log.reader()),
    )
    assert (report["size"], report["inclusions"], report["tiles"]) == (size, 500, 257 + 1 + 1)


@pytest.mark.parametrize(
    "path", ["tile/entries/000", "tile/entries/002.p/1", "tile/0/001", "tile/1/000.p/2", "checkpoint"]
)
def test_go_notices_one_changed_octet_in_any_file(stations, go_reader, tmp_path, path):
    log = stations[STEPS.index(513)]
    file = log.write(tmp_path) / path
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(GoRefused):
        read_log(go_reader, tmp_path, log.vkey)


def test_go_notices_a_head_signed_by_another_key(stations, go_reader, tmp_path, vectors):
    log = stations[4]
    stranger = vectors("signed_note.json")["signers"][0]["vkey"]
    with pytest.raises(GoRefused):
        read_log(go_reader, log.write(tmp_path), stranger)
    assert base64.b64encode(log.frontier.root()).decode() in log.head()
