"""c2sp.org/tlog-tiles: a tree as immutable files of up to 256 hashes, entries as bundles of up to 256.

A tile of level ``L`` holds hashes of complete subtrees over ``256 ** L`` leaves. This module names tiles,
computes their content and reads subtree hashes back out of them; files are the caller's business:
``ReadTile`` takes a path like ``tile/0/x001/067`` and returns its octets, or None when there is no such file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from birthmark.errors import Refused, Tampered
from birthmark.tlog.merkle import HASH_OCTETS, MAX_SIZE, Frontier, leaf_hashes, node_hash, split_hashes

__all__ = [
    "ENTRIES",
    "MAX_ENTRY_OCTETS",
    "TILE_WIDTH",
    "HashReader",
    "ReadTile",
    "Tile",
    "bundle_leaf_hashes",
    "cut_bundles",
    "decode_entries",
    "encode_entries",
    "entry_bundles",
    "grown_tiles",
    "hash_tiles",
    "load_entries",
    "load_tile",
    "parse_tile_path",
    "upper_tiles",
]

TILE_HEIGHT = 8
TILE_WIDTH = 256
ENTRIES = -1
"""The "level" of an entry bundle."""
MAX_LEVEL = 63
MAX_ENTRY_OCTETS = 65535

ReadTile = Callable[[str], bytes | None]

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """The name of a tile: level 0 to 63 or :data:`ENTRIES`, index in the level, width 1 to 256."""

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if not (
            ENTRIES <= self.level <= MAX_LEVEL
            and 0 <= self.index <= MAX_SIZE // TILE_WIDTH
            and 1 <= self.width <= TILE_WIDTH
        ):
            raise Refused(
                "log.tile.name",
                f"there is no tile of level {self.level}, index {self.index}, width {self.width}",
                hint="Use a level from 0 to 63, an index inside the log and a width from 1 to 256.",
            )

    @property
    def path(self) -> str:
        """The path below the log's root directory, with ``/`` between its parts."""
        digits = str(self.index)
        digits = digits.rjust(-(-len(digits) // 3) * 3, "0")
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{name}{partial}"


def parse_tile_path(path: str) -> Tile:
    """Return the tile a path names, or refuse it (``log.tile.path``): only the canonical form is a path."""
    match = _PATH.fullmatch(path)
    if match is not None:
        level = ENTRIES if match[1] == "entries" else int(match[1])
        index = int(match[2].replace("x", "").replace("/", ""))
        width = int(match[3] or TILE_WIDTH)
        if level <= MAX_LEVEL and index <= MAX_SIZE // TILE_WIDTH and width <= TILE_WIDTH:
            tile = Tile(level, index, width)
            if tile.path == path:
                return tile
    raise Refused(
        "log.tile.path",
        f"{path[:120]!r} is not the path of a tile",
        hint="Use tile/<level>/<index> or tile/entries/<index>, with .p/<width> for a partial tile.",
        path=ascii(path[:120]),
    )


def grown_tiles(old_size: int, new_size: int) -> Iterator[Tile]:
    """Yield the name of every hash tile that a growth from ``old_size`` to ``new_size`` leaves must write.

    Lower levels come first. A bundle of entries belongs to each tile of level 0.
    """
    _require_growth(old_size, new_size)
    level, old, new = 0, old_size, new_size
    while old < new:
        for index in range(old // TILE_WIDTH, -(-new // TILE_WIDTH)):
            yield Tile(level, index, min(TILE_WIDTH, new - index * TILE_WIDTH))
        level, old, new = level + 1, old // TILE_WIDTH, new // TILE_WIDTH


def hash_tiles(old_size: int, hashes: Sequence[bytes] | bytes, read_tile: ReadTile) -> Iterator[tuple[Tile, bytes]]:
    """Yield name and content of every hash tile to write when leaf ``hashes`` follow ``old_size`` leaves.

    ``read_tile`` is asked only for the partial tiles of the old size, at most one for each level.
    """
    fresh = b"".join(split_hashes(hashes))
    level, old, new = 0, old_size, old_size + len(fresh) // HASH_OCTETS
    _require_growth(old, new)
    while old < new:
        index, kept = divmod(old, TILE_WIDTH)
        data = (load_tile(Tile(level, index, kept), read_tile) if kept else b"") + fresh
        parents = []
        for at in range(0, len(data), TILE_WIDTH * HASH_OCTETS):
            content = data[at : at + TILE_WIDTH * HASH_OCTETS]
            width = len(content) // HASH_OCTETS
            yield Tile(level, index, width), content
            if width == TILE_WIDTH:
                parents.append(Frontier().extend(content).root())
            index += 1
        fresh = b"".join(parents)
        level, old, new = level + 1, old // TILE_WIDTH, new // TILE_WIDTH


def upper_tiles(size: int, read_tile: ReadTile) -> Iterator[tuple[Tile, bytes]]:
    """Yield every hash tile above level 0 of a tree of ``size`` leaves, computed from level 0 alone."""
    roots = [Frontier().extend(load_tile(Tile(0, index), read_tile)).root() for index in range(size // TILE_WIDTH)]
    for tile, data in hash_tiles(0, roots, read_tile):
        yield Tile(tile.level + 1, tile.index, tile.width), data


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """Return the bundle form of entries: for each, its length (2 octets, big endian) and itself.

    Raises ``Refused`` (``log.entry.length``) for an entry above 65535 octets.
    """
    parts = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_OCTETS:
            raise Refused(
                "log.entry.length",
                f"a log entry of {len(entry)} octets is too long",
                hint=f"Keep every log entry within {MAX_ENTRY_OCTETS} octets.",
                octets=len(entry),
            )
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    return b"".join(parts)


def decode_entries(data: bytes) -> list[bytes]:
    """Return the entries of a bundle, or raise ``Tampered`` (``log.entries.malformed``)."""
    entries = []
    at, end = 0, len(data)
    while at + 2 <= end:
        start = at + 2
        at = start + (data[at] << 8 | data[at + 1])
        entries.append(data[start:at])
    if at != end:
        raise Tampered(
            "log.entries.malformed",
            "an entry bundle ends inside an entry",
            hint="Fetch the bundle again or restore it from another copy of the log.",
            octets=end,
        )
    return entries


def bundle_leaf_hashes(data: bytes) -> bytes:
    """Return the content of the level 0 tile that belongs to an entry bundle."""
    return b"".join(leaf_hashes(decode_entries(data)))


def entry_bundles(old_size: int, entries: Sequence[bytes], read_tile: ReadTile) -> Iterator[tuple[Tile, bytes]]:
    """Yield name and content of every bundle to write when ``entries`` follow ``old_size`` entries.

    ``read_tile`` is asked only for the partial bundle of the old size, if there is one.
    """
    _require_growth(old_size, old_size + len(entries))
    index, kept = divmod(old_size, TILE_WIDTH)
    at = 0
    while at < len(entries):
        batch = entries[at : at + TILE_WIDTH - kept]
        before = load_entries(Tile(ENTRIES, index, kept), read_tile) if kept else []
        yield Tile(ENTRIES, index, kept + len(batch)), encode_entries(before) + encode_entries(batch)
        at, index, kept = at + len(batch), index + 1, 0


def cut_bundles(first: int, pieces: Iterable[bytes]) -> Iterator[tuple[Tile, bytes]]:
    """Yield name and content of every bundle of packed entries that start at ``first``, the start of a bundle.

    ``pieces`` are whole entries in bundle form, end to end. This is ``entry_bundles`` for entries that are packed
    already: they are cut, not decoded.
    """
    index, width = first // TILE_WIDTH, 0
    parts: list[bytes] = []
    for piece in pieces:
        start = at = 0
        end = len(piece)
        while at < end:
            at += 2 + (piece[at] << 8 | piece[at + 1])
            width += 1
            if width == TILE_WIDTH:
                yield Tile(ENTRIES, index), b"".join((*parts, piece[start:at]))
                index, width, parts, start = index + 1, 0, [], at
        parts.append(piece[start:])
    if width:
        yield Tile(ENTRIES, index, width), b"".join(parts)


def load_tile(tile: Tile, read_tile: ReadTile) -> bytes:
    """Return the content of a hash tile; the full tile serves where a partial one is gone.

    Raises ``Tampered``: ``log.tile.missing``, or ``log.tile.length`` when it does not hold its width.
    """
    data, width = _load(tile, read_tile)
    if len(data) != width * HASH_OCTETS:
        raise Tampered(
            "log.tile.length",
            f"{tile.path} should hold {width} hashes and has {len(data)} octets",
            hint="Rebuild the tile from the log entries or fetch it again.",
            path=tile.path,
            octets=len(data),
        )
    return data[: tile.width * HASH_OCTETS]


def load_entries(tile: Tile, read_tile: ReadTile) -> list[bytes]:
    """Return the entries of a bundle; the full bundle serves where a partial one is gone.

    Raises ``Tampered``: ``log.tile.missing``, ``log.entries.malformed``, or ``log.entries.count`` when the
    bundle does not hold its width.
    """
    data, width = _load(tile, read_tile)
    entries = decode_entries(data)
    if len(entries) != width:
        raise Tampered(
            "log.entries.count",
            f"{tile.path} should hold {width} entries and has {len(entries)}",
            hint="Fetch the bundle again or restore it from another copy of the log.",
            path=tile.path,
            entries=len(entries),
        )
    return entries[: tile.width]


class HashReader:
    """Subtree hashes of a tree of ``size`` leaves, read out of its tiles.

    An instance is a ``ReadHash`` for that tree and for every smaller one. It does not prove the tiles: whoever
    did not write them compares :func:`~birthmark.tlog.merkle.tree_root` with a signed checkpoint, and checks
    each proof made from them. Tiles are kept, the last :attr:`KEPT` of them.
    """

    KEPT = 64

    __slots__ = ("_kept", "_read_tile", "_size")

    def __init__(self, size: int, read_tile: ReadTile) -> None:
        _require_growth(0, size)
        self._size = size
        self._read_tile = read_tile
        self._kept: dict[Tile, list[list[bytes]]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """Return the hash of the complete subtree ``(level, index)``."""
        if level < 0 or index < 0 or (index + 1) << min(level, 64) > self._size:
            raise Refused(
                "log.hash.range",
                f"a tree of {self._size} leaves has no complete subtree {index} of level {level}",
                hint="Ask for a subtree that lies inside the tree.",
                size=str(self._size),
            )
        tile_level, height = divmod(level, TILE_HEIGHT)
        tile_index, at = divmod(index, TILE_WIDTH >> height)
        width = min(TILE_WIDTH, (self._size >> tile_level * TILE_HEIGHT) - tile_index * TILE_WIDTH)
        return self._heights(Tile(tile_level, tile_index, width))[height][at]

    def _heights(self, tile: Tile) -> list[list[bytes]]:
        heights = self._kept.pop(tile, None)
        if heights is None:
            heights = _complete_subtrees(load_tile(tile, self._read_tile))
            if len(self._kept) >= self.KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[tile] = heights  # the end of the dictionary is the most recently used
        return heights


def _complete_subtrees(data: bytes) -> list[list[bytes]]:
    """Return, for each height inside a tile, the hashes of its complete subtrees."""
    heights = [split_hashes(data)]
    while len(heights[-1]) > 1:
        pair = iter(heights[-1])
        heights.append([node_hash(left, right) for left, right in zip(pair, pair, strict=False)])
    return heights


def _load(tile: Tile, read_tile: ReadTile) -> tuple[bytes, int]:
    """Return the octets of a tile and the width they should have."""
    for candidate in (tile, Tile(tile.level, tile.index)):
        data = read_tile(candidate.path)
        if data is not None:
            return data, candidate.width
    raise Tampered(
        "log.tile.missing",
        f"{tile.path} is missing from the log",
        hint="Restore the file from another copy of the log.",
        path=tile.path,
    )


def _require_growth(old_size: int, new_size: int) -> None:
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise Refused(
            "log.size.range",
            f"a log cannot grow from {old_size} to {new_size} entries",
            hint="Sizes of a log start at 0 and only grow.",
            old=str(old_size),
            new=str(new_size),
        )
