"""The request store: whatever a power cut leaves, nothing else is read than what was put."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from birthmark.adapters.requeststore import FileRequestStore
from birthmark.errors import StationFault
from birthmark.ports import KeptRequests, SealedChunk

KEPT = KeptRequests((b"first request", b"second"), SealedChunk(b"capsule", 4, b"slotslot"))


@pytest.fixture
def store(tmp_path: Path) -> FileRequestStore:
    return FileRequestStore(tmp_path / "requests")


def test_what_was_put_is_kept(store: FileRequestStore, tmp_path: Path):
    assert store.kept("a", 7) is None
    assert store.intents("a") == []
    store.put("a", 7, KEPT)
    store.put("a-b", 9, KeptRequests((b"one",), None))
    assert FileRequestStore(tmp_path / "requests").kept("a", 7) == KEPT
    assert store.intents("a") == [7]
    assert store.kept("a-b", 9) == KeptRequests((b"one",), None)
    assert stat.S_IMODE((tmp_path / "requests" / "a.7.req").stat().st_mode) == 0o600
    store.remove("a", 7)
    store.remove("a", 7)
    assert store.kept("a", 7) is None


def test_every_cut_and_every_flip_of_the_requests_is_nothing(store: FileRequestStore, tmp_path: Path):
    store.put("a", 7, KEPT)
    path = tmp_path / "requests" / "a.7.req"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.kept("a", 7) is None
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :])
        assert store.kept("a", 7) is None


def test_a_torn_answer_is_left_out_and_written_over(store: FileRequestStore, tmp_path: Path):
    store.put("a", 7, KEPT)
    store.add_answer("a", 7, 1, b"certificate one")
    path = tmp_path / "requests" / "a.7.ans"
    before = path.read_bytes()
    store.add_answer("a", 7, 0, b"certificate nought")
    whole = path.read_bytes()
    assert store.answers("a", 7) == {1: b"certificate one", 0: b"certificate nought"}
    for length in range(len(before), len(whole)):
        path.write_bytes(whole[:length])
        assert store.answers("a", 7) == {1: b"certificate one"}
        store.add_answer("a", 7, 0, b"again")
        assert store.answers("a", 7) == {1: b"certificate one", 0: b"again"}
    store.put("a", 7, KEPT)
    assert store.answers("a", 7) == {}


def test_a_disk_that_does_not_take_it_is_told(store: FileRequestStore, tmp_path: Path):
    (tmp_path / "requests").write_bytes(b"")
    with pytest.raises(StationFault):
        store.put("a", 7, KEPT)
