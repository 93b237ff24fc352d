"""Tiles lost, cut short, renamed or served for another size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paperlog import PaperLog, naive_root, reader_of, sample_entries

from birthmark.errors import Refused, Tampered
from birthmark.tlog.merkle import leaf_hashes, tree_root
from birthmark.tlog.tiles import (
    ENTRIES,
    HashReader,
    Tile,
    bundle_leaf_hashes,
    decode_entries,
    encode_entries,
    grown_tiles,
    load_entries,
    load_tile,
    parse_tile_path,
    upper_tiles,
)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 999), "tile/0/999"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(3, 1234067), "tile/3/x001/x234/067"),
        (Tile(63, 5, 1), "tile/63/005.p/1"),
        (Tile(ENTRIES, 1234067, 255), "tile/entries/x001/x234/067.p/255"),
    ],
)
def test_paths_are_those_of_the_specification(tile, path):
    assert tile.path == path
    assert parse_tile_path(path) == tile


@given(st.integers(-1, 63), st.integers(0, (2**63 - 1) // 256), st.integers(1, 256))
def test_every_tile_has_one_path(level, index, width):
    tile = Tile(level, index, width)
    assert parse_tile_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/1/",
        "tile/0/000\n",
        "tile/0/٠٠٠",
        "tile/../checkpoint",
        "tile/0/../../etc/passwd",
        "/tile/0/000",
        "tile/entries/x999/x999/x999/x999/x999/x999/999",
        "tile/0/" + "x001/" * 5000 + "000",
    ],
)
def test_a_path_that_is_not_canonical_is_refused(path):
    with pytest.raises(Refused) as caught:
        parse_tile_path(path)
    assert caught.value.code == "log.tile.path"


@pytest.mark.parametrize("name", [(-2, 0, 1), (64, 0, 1), (0, -1, 1), (0, 2**60, 1), (0, 0, 0), (0, 0, 257)])
def test_a_tile_that_cannot_be_has_no_name(name):
    with pytest.raises(Refused):
        Tile(*name)


def test_the_specification_s_tree_of_70000_has_its_tiles():
    names = list(grown_tiles(0, 70_000))
    assert [tile for tile in names if tile.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert sum(tile.level == 0 for tile in names) == 274
    assert list(grown_tiles(0, 256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(grown_tiles(256, 256)) == []
    assert list(grown_tiles(255, 257)) == [Tile(0, 0), Tile(0, 1, 1), Tile(1, 0, 1)]


@given(st.lists(st.integers(0, 700), min_size=1, max_size=5), st.data())
def test_tiles_grown_in_any_steps_are_the_tree(steps, data):
    log = PaperLog()
    for step in steps:
        before = set(log.files)
        size = len(log.entries)
        log.grow(sample_entries(size, size + step))
        new = {path for path in log.files if not path.startswith("tile/entries/")} - before
        assert new == {tile.path for tile in grown_tiles(size, size + step)}
    leaves = leaf_hashes(log.entries)
    direct = reader_of(leaves)
    reader = log.reader()
    size = len(leaves)
    assert tree_root(size, reader) == naive_root(leaves) == log.frontier.root()
    older = data.draw(st.integers(0, size))
    assert tree_root(older, reader) == naive_root(leaves[:older])
    for level in range(size.bit_length()):
        index = data.draw(st.integers(0, (size >> level) - 1))
        assert reader(level, index) == direct(level, index)


def test_upper_tiles_come_back_from_level_0_alone():
    log = PaperLog()
    log.grow(sample_entries(0, 66_000))
    upper = {path: data for path, data in log.files.items() if not path.startswith(("tile/0/", "tile/entries/"))}
    assert "tile/2/000.p/1" in upper
    level_0 = {path: data for path, data in log.files.items() if path.startswith("tile/0/")}
    assert {tile.path: data for tile, data in upper_tiles(66_000, level_0.get)} == upper


def test_bundles_hash_to_their_level_0_tile(paper_log):
    paper_log.grow(sample_entries(0, 300))
    paper_log.grow(sample_entries(300, 600))
    for index, width in ((0, 256), (1, 256), (2, 88)):
        bundle = paper_log.files[Tile(ENTRIES, index, width).path]
        assert bundle_leaf_hashes(bundle) == paper_log.files[Tile(0, index, width).path]


def test_a_partial_tile_that_was_cleared_away_is_served_by_the_full_one(paper_log):
    paper_log.grow(sample_entries(0, 300))
    paper_log.grow(sample_entries(300, 520))
    del paper_log.files["tile/0/001.p/44"]
    reader = HashReader(300, paper_log.files.get)
    assert tree_root(300, reader) == naive_root(leaf_hashes(paper_log.entries[:300]))
    assert load_tile(Tile(0, 1, 44), paper_log.files.get) == paper_log.files["tile/0/001"][: 44 * 32]
    del paper_log.files["tile/entries/001.p/44"]
    assert load_entries(Tile(ENTRIES, 1, 44), paper_log.files.get) == paper_log.entries[256:300]


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "log.tile.missing"), (b"", "log.tile.length"), (b"\x00" * 8191, "log.tile.length")],
)
def test_a_lost_or_cut_tile_is_noticed(paper_log, content, code):
    paper_log.grow(sample_entries(0, 256))
    with pytest.raises(Tampered) as caught:
        load_tile(Tile(0, 0), lambda path: content)
    assert caught.value.code == code
    with pytest.raises(Tampered):
        HashReader(256, lambda path: content)(0, 3)


@pytest.mark.parametrize(("level", "index"), [(0, 300), (8, 1), (9, 0), (-1, 0), (0, -1), (10**9, 0)])
def test_a_subtree_outside_the_tree_is_refused(paper_log, level, index):
    paper_log.grow(sample_entries(0, 300))
    with pytest.raises(Refused) as caught:
        paper_log.reader()(level, index)
    assert caught.value.code == "log.hash.range"


def test_a_reader_of_many_tiles_keeps_only_some(paper_log):
    paper_log.grow(sample_entries(0, 256 * 80))
    asked = []

    def read_tile(path: str) -> bytes | None:
        asked.append(path)
        return paper_log.files.get(path)

    reader = HashReader(256 * 80, read_tile)
    for index in range(80):
        assert reader(0, index * 256) == reader(0, index * 256)
    assert len(asked) == 80
    reader(0, 79 * 256)
    assert len(asked) == 80
    reader(0, 0)
    assert len(asked) == 81


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_bundles_come_back_as_they_went(entries):
    assert decode_entries(encode_entries(entries)) == entries


def test_the_longest_entry_fits_and_one_octet_more_is_refused():
    longest = b"x" * 65535
    assert decode_entries(encode_entries([longest])) == [longest]
    with pytest.raises(Refused) as caught:
        encode_entries([longest + b"x"])
    assert caught.value.code == "log.entry.length"


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x02x", b"\x00\x01x\x00", b"\xff\xff"])
def test_a_bundle_cut_inside_an_entry_is_noticed(data):
    with pytest.raises(Tampered) as caught:
        decode_entries(data)
    assert caught.value.code == "log.entries.malformed"


@given(st.binary(max_size=64))
def test_no_octets_break_the_bundle_reader(data):
    try:
        entries = decode_entries(data)
    except Tampered:
        return
    assert encode_entries(entries) == data


def test_a_bundle_with_an_entry_too_many_is_noticed(paper_log):
    paper_log.grow([b"a", b"b"])
    paper_log.files["tile/entries/000.p/2"] += b"\x00\x00"
    with pytest.raises(Tampered) as caught:
        paper_log.grow([b"c"])
    assert caught.value.code == "log.entries.count"


def test_a_log_never_grows_backwards():
    with pytest.raises(Refused) as caught:
        list(grown_tiles(5, 4))
    assert caught.value.code == "log.size.range"
