"""One log on paper: the tiles, bundles and head our code writes, in a dictionary of paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.tlog import checkpoint, merkle, tiles
from birthmark.tlog.note import encode_vkey, public_octets

ORIGIN = "birthmark/example/site-1"


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1 word for word, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def reader_of(leaves: Sequence[bytes]) -> merkle.ReadHash:
    """Subtree hashes straight from the definition."""

    def read_hash(level: int, index: int) -> bytes:
        part = leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "asked for a subtree that is not complete"
        return naive_root(part)

    return read_hash


@dataclass
class PaperLog:
    """A log in memory, grown in steps the way a writer of files does it."""

    files: dict[str, bytes] = field(default_factory=dict)
    entries: list[bytes] = field(default_factory=list)
    frontier: merkle.Frontier = field(default_factory=merkle.Frontier)
    key: Ed25519PrivateKey = field(default_factory=lambda: Ed25519PrivateKey.from_private_bytes(bytes(32)))

    @property
    def vkey(self) -> str:
        return encode_vkey(ORIGIN, public_octets(self.key))

    def grow(self, entries: Iterable[bytes]) -> None:
        fresh = list(entries)
        hashes = merkle.leaf_hashes(fresh)
        size = len(self.entries)
        written = [
            *tiles.entry_bundles(size, fresh, self.files.get),
            *tiles.hash_tiles(size, hashes, self.files.get),
        ]
        self.files.update((tile.path, data) for tile, data in written)
        self.entries += fresh
        self.frontier = self.frontier.extend(hashes)

    def head(self) -> str:
        return checkpoint.sign(checkpoint.Checkpoint(ORIGIN, self.frontier.size, self.frontier.root()), self.key)

    def reader(self) -> tiles.HashReader:
        return tiles.HashReader(len(self.entries), self.files.get)

    def write(self, directory: Path) -> Path:
        for path, data in self.files.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "checkpoint").write_text(self.head(), encoding="utf-8")
        return directory


def sample_entries(start: int, stop: int) -> list[bytes]:
    """Entries of many lengths, the empty one among them."""
    return [b'{"n":%d}' % number * (number % 7) for number in range(start, stop)]
