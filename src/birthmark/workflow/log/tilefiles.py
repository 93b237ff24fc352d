"""Writing the files of a log that grew: the log of this workspace, and those of its sites."""

from __future__ import annotations

from collections.abc import Iterable

from birthmark.ports import LogStore
from birthmark.tlog.tiles import TILE_WIDTH, cut_bundles, hash_tiles

__all__ = ["write_tiles"]


def write_tiles(store: LogStore, old: int, hashes: bytes, packed: Iterable[bytes]) -> None:
    """Write hash tiles and entry bundles when leaf ``hashes`` (32 octets each) follow ``old`` leaves.

    ``packed``: whole entries in bundle form, end to end, from the start of the bundle that ``old`` falls into. Nothing
    is durable before ``store.publish``; writing the same again does no harm.
    """
    tiles: dict[str, bytes] = {}

    def read(path: str) -> bytes | None:
        return tiles.get(path) or store.read(path)

    for tile, data in hash_tiles(old, hashes, read):
        tiles[tile.path] = data
    for path, data in tiles.items():
        store.write(path, data)
    for tile, data in cut_bundles(old - old % TILE_WIDTH, packed):
        store.write(tile.path, data)
