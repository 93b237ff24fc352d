"""c2sp.org/tlog-tiles: a tree as immutable files of up to 256 hashes, entries as bundles of up to 256.

A tile of level ``L`` holds hashes of complete subtrees over ``256 ** L`` leaves. This module names tiles,
computes their content and reads subtree hashes back out of them; files are the caller's business:
``ReadTile`` takes a path like ``tile/0/x001/067`` and returns its octets, or None when there is no such file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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
    "decode_entries",
    "encode_entries",
    "entry_bundles",
    "grown_tiles",
    "hash_tiles",
    "parse_tile_path",
    "read_tile_of",
    "upper_tiles",
]

TILE_HEIGHT = 8
TILE_WIDTH = 256
ENTRIES = -1
"""The "level" of an entry bundle."""
MAX_LEVEL = 63
MAX_ENTRY_OCTETS = 65535

ReadTile = Callable[[str], bytes | None]

_PATH = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)


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
        level, name, width = match.groups()
        number = int(name.replace("x", "").replace("/", ""))
        if number <= MAX_SIZE // TILE_WIDTH and int(width or 1) <= TILE_WIDTH and len(level) != 2 or level <= "63":
            tile = Tile(ENTRIES if level == "entries" else int(level), number, int(width or TILE_WIDTH))
            if tile.path == path:
                return tile
    raise Refused(
        "log.tile.path",
        f"{path[:120]!r} is not the path of a tile",
        hint="Use tile/<level>/<index> or tile/entries/<index>, with .p/<width> for a partial tile.",
        path=ascii(path[:120]),
    )
