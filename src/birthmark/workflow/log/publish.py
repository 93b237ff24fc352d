"""Publish the log: sign a head over what is durable, then show tiles and checkpoint as plain files.

Order of writes: sign; record the head in the ledger (durable); write tiles; show the checkpoint. A crash in between
leaves a recorded head that is not shown: the next publication writes the same tiles again and shows it. Bulk work
signs a head every second and shows the last one when it is done, since making a file costs more than a certificate.
A log head never rolls back: files that are ahead of the ledger mean that the ledger is an old copy.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Tampered
from birthmark.model.records import Publication
from birthmark.ports import LogStore, Publisher
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint
from birthmark.tlog.checkpoint import sign as sign_checkpoint
from birthmark.tlog.merkle import Frontier
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.tlog.tiles import TILE_WIDTH, HashReader
from birthmark.workflow.log.tilefiles import write_tiles

__all__ = ["LogPublication"]

_STEP = 1 << 16
"""Leaves that are taken up at once: memory stays flat however far the log ran ahead."""


class LogPublication:
    """Signs and shows heads of one log. One process at a time: the caller holds a lock."""

    def __init__(self, publisher: Publisher, store: LogStore, *, origin: str, key: Ed25519PrivateKey) -> None:
        self._publisher = publisher
        self._store = store
        self._origin = origin
        self._key = key
        self.vkey = encode_vkey(origin, public_octets(key))

    def sign(self) -> Publication:
        """Sign a head over everything that is durable and record it; return it. Nothing is shown."""
        recorded = self._publisher.publication()
        size = self._publisher.head().size
        if size == recorded.size:
            return recorded
        frontier = Frontier.from_bytes(recorded.frontier) if recorded.size else Frontier()
        for first in range(recorded.size, size, _STEP):
            frontier = frontier.extend(self._publisher.leaf_hashes(first, min(_STEP, size - first)))
        note = sign_checkpoint(Checkpoint(self._origin, size, frontier.root()), self._key)
        publication = Publication(size=size, frontier=frontier.to_bytes(), checkpoint=note.encode())
        self._publisher.record_publication(publication)
        return publication

    def publish(self) -> int:
        """Sign a head and bring the files up to it; return the size that is shown."""
        before = self.shown()
        shown = self._shown_size(before, self._publisher.publication())
        signed = self.sign()
        if shown < signed.size:
            for first in range(shown, signed.size, _STEP):
                self._write_tiles(first, min(first + _STEP, signed.size))
            # What is shown next must lead to what was signed and extend what was shown, whoever wrote the files.
            read_hash = HashReader(signed.size, self._store.read)
            self._require(Frontier.load(signed.size, read_hash), signed)
            if before is not None and Frontier.load(shown, read_hash).root() != before.root:
                raise _forked(shown)
            self._store.publish(signed.checkpoint)
        return signed.size

    def require_continuity(self) -> None:
        """Refuse to go on from an old copy of the ledger: ``Tampered("ledger.rolled_back")`` and its kin.

        To be called before anything is signed or handed out; it writes nothing. Files are read before the ledger, so
        another process that publishes meanwhile is no contradiction.
        """
        self._shown_size(self.shown(), self._publisher.publication())

    def shown(self) -> Checkpoint | None:
        """Return the checkpoint that the files show."""
        note = self._store.read("checkpoint")
        return None if note is None else open_checkpoint(note, self._origin, self.vkey)

    def _shown_size(self, shown: Checkpoint | None, recorded: Publication) -> int:
        """Compare files and ledger: the files may be behind, never ahead and never different."""
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
            if Frontier.from_bytes(recorded.frontier).root() != shown.root:
                raise _forked(shown.size)
            self._require(Frontier.load(shown.size, HashReader(shown.size, self._store.read)), recorded)
        return shown.size

    def _write_tiles(self, old: int, new: int) -> None:
        """Write hash tiles and entry bundles of a growth."""
        aligned = old - old % TILE_WIDTH
        hashes = self._publisher.leaf_hashes(old, new - old)
        write_tiles(self._store, old, hashes, self._publisher.packed(aligned, new - aligned))

    def _require(self, found: Frontier, recorded: Publication) -> None:
        if found.to_bytes() != recorded.frontier:
            raise Tampered(
                "log.tiles.differ",
                f"the published tiles do not lead to the head of {recorded.size} entries that was signed",
                hint="Run `birthmark audit verify`; it names the tile.",
                size=recorded.size,
            )


def _forked(size: int) -> Tampered:
    return Tampered(
        "log.forked",
        f"ledger and published log disagree about the first {size} entries",
        hint="Stop. Compare both with a copy that a witness holds.",
        size=size,
    )
