"""Files of vendors: memory does not grow with them, and what was read is what is named."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from birthmark.adapters.vendorfiles import FileSpool, VendorFile
from birthmark.errors import Misconfigured
from birthmark.ports import PackedChunk
from birthmark.wire.microchip import manifest_signers
from support.chipvendor import ChipVendor, der

VENDOR = ChipVendor()
SIGNERS = manifest_signers([der(VENDOR.signer)])


def many(path: Path, count: int) -> Path:
    """Write one element again and again: whether chips are different is not the reader's question."""
    element = json.dumps(VENDOR.element(VENDOR.chip("0001").payload()))
    with path.open("w") as file:
        file.write("[" + element)
        for _ in range(count - 1):
            file.write(",\n" + element)
        file.write("]")
    return path


def peak(path: Path, scratch: Path) -> tuple[int, int]:
    """Return how many chips were read, and the most memory that took, in octets."""
    tracemalloc.start()
    try:
        with VendorFile(path, scratch=scratch, signers=SIGNERS) as file:
            count = sum(1 for _ in file.items())
            assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_a_manifest(tmp_path: Path) -> None:
    few, many_ = many(tmp_path / "few.json", 20), many(tmp_path / "many.json", 600)
    assert peak(few, tmp_path)[0] == 20  # what is loaded once is loaded
    _, small = peak(few, tmp_path)
    count, large = peak(many_, tmp_path)
    size = many_.stat().st_size
    assert count == 600
    # The one thing that is read whole here is the test's own digest of the file.
    assert large - size < small + (256 << 10)


def test_name_of_a_directory_is_that_of_its_files_in_order(tmp_path: Path) -> None:
    chips = [VENDOR.chip(f"id-{number}") for number in range(2)]
    place = tmp_path / "lot"
    place.mkdir()
    for chip in reversed(chips):
        (place / f"{chip.unique_id}.der").write_bytes(der(chip.certificate))
    (place / ".hidden").write_bytes(b"x")
    told = b"".join(
        f"{chip.unique_id}.der\n{len(der(chip.certificate))}\n".encode() + der(chip.certificate) for chip in chips
    )
    with VendorFile(place, scratch=tmp_path, signers={}) as file:
        assert file.named() == hashlib.sha256(told).hexdigest()
        assert [item.certificate for item in file.items()] == [der(chip.certificate) for chip in chips]
        assert file.sha256() == hashlib.sha256(told).hexdigest()


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, check=lambda fault: fault.code == "preload.file"):
        VendorFile(tmp_path / "nothing", scratch=tmp_path, signers={})


def test_spool_gives_back_what_was_put_as_often_as_asked_and_leaves_no_file(tmp_path: Path) -> None:
    chunks = [PackedChunk("a", 1, b"x" * 10), PackedChunk("b", 2, b""), PackedChunk("a", 3, b"y")]
    with FileSpool(tmp_path) as spool:
        for chunk in chunks:
            spool.put(chunk)
        assert list(spool) == chunks
        spool.put(chunks[0])
        assert list(spool) == [*chunks, chunks[0]]
    assert list(tmp_path.iterdir()) == []
