"""Publish the log: sign a head over what is durable, then show tiles and checkpoint as plain files.

Order of writes: sign; record the head in the ledger (durable); write tiles; show the checkpoint. A crash in between
leaves a recorded head that is not shown: the next publication writes the same tiles again and shows it.
A log head never rolls back: files that are ahead of the ledger mean that the ledger is an old copy.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Tampered
from birthmark.model.records import Publication
from birthmark.ports import LogStore, Publisher
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint
from birthmark.tlog.checkpoint import sign as sign_checkpoint
from birthmark.tlog.merkle import Frontier
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.tlog.tiles import TILE_WIDTH, HashReader, cut_bundles, hash_tiles

__all__ = ["LogPublication"]

_STEP = 1 << 16
"""Leaves in one publication at most: memory stays flat however far the log ran ahead."""


class LogPublication:
    """Signs and shows heads of one log."""

    def __init__(self, publisher: Publisher, store: LogStore, *, origin: str, key: Ed25519PrivateKey) -> None:
        self._publisher = publisher
        self._store = store
        self._origin = origin
        self._key = key
        self.vkey = encode_vkey(origin, public_octets(key))

    def publish(self) -> int:
        """Bring the files up to the ledger; return the size that is shown."""
        recorded = self._publisher.publication()
        shown = self._shown_size(recorded)
        if shown < recorded.size:
            growth = self._grow(shown, recorded.size)
            self._require(growth.frontier == Frontier.from_bytes(recorded.frontier), recorded.size)
            self._show(growth, recorded.checkpoint)
        size = recorded.size
        while (target := min(self._publisher.head().size, size + _STEP)) > size:
            growth = self._grow(size, target)
            note = sign_checkpoint(Checkpoint(self._origin, target, growth.frontier.root()), self._key).encode()
            frontier = growth.frontier.to_bytes()
            self._publisher.record_publication(Publication(size=target, frontier=frontier, checkpoint=note))
            self._show(growth, note)
            size = target
        return size

    def shown(self) -> Checkpoint | None:
        """Return the checkpoint that the files show."""
        note = self._store.read("checkpoint")
        return None if note is None else open_checkpoint(note, self._origin, self.vkey)

    def _shown_size(self, recorded: Publication) -> int:
        """Compare files and ledger: the files may be behind, never ahead and never different."""
        shown = self.shown()
        if shown is None:
            return 0
        if shown.size > recorded.size:
            raise Tampered(
                "ledger.rolled_back",
                f"the published log has {shown.size} entries, the ledger signed only {recorded.size}",
                hint="This ledger is an old copy: restore the newest one, or start a new log with a record of why.",
                shown=shown.size,
                recorded=recorded.size,
            )
        if shown.size == recorded.size:
            edge = Frontier.from_bytes(recorded.frontier)
        else:
            edge = Frontier.load(shown.size, HashReader(shown.size, self._store.read))
        if edge.root() != shown.root:
            raise Tampered(
                "log.forked",
                f"ledger and published log disagree about the first {shown.size} entries",
                hint="Stop. Compare both with a copy that a witness holds.",
                size=shown.size,
            )
        return shown.size

    def _grow(self, old: int, new: int) -> _Growth:
        """Compute the hash tiles of a growth; the old tiles must still lead to the head recorded for them."""
        tiles: dict[str, bytes] = {}

        def read(path: str) -> bytes | None:
            return tiles.get(path) or self._store.read(path)

        recorded = self._publisher.publication()
        if old and old == recorded.size:
            before = Frontier.load(old, HashReader(old, self._store.read))
            self._require(before.to_bytes() == recorded.frontier, old)
        for tile, data in hash_tiles(old, self._publisher.leaf_hashes(old, new - old), read):
            tiles[tile.path] = data
        return _Growth(old, new, tiles, Frontier.load(new, HashReader(new, read)))

    def _show(self, growth: _Growth, checkpoint: bytes) -> None:
        for path, data in growth.tiles.items():
            self._store.write(path, data)
        aligned = growth.old - growth.old % TILE_WIDTH
        pieces = self._publisher.packed(aligned, growth.new - aligned)
        for tile, data in cut_bundles(aligned, pieces):
            self._store.write(tile.path, data)
        self._store.publish(checkpoint)

    def _require(self, same: bool, size: int) -> None:
        if not same:
            raise Tampered(
                "log.tiles.differ",
                f"the published tiles do not lead to the head of {size} entries that was signed",
                hint="Run `birthmark audit verify`; it names the tile.",
                size=size,
            )


@dataclass(frozen=True, slots=True)
class _Growth:
    old: int
    new: int
    tiles: dict[str, bytes]
    frontier: Frontier
