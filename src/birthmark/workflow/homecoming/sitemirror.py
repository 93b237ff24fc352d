"""The log of one site as the authority has it: the same C2SP tiles, grown only by what was verified.

Order of writes: tiles, then the site's checkpoint over them (``LogStore.publish``), then ``site_reported`` in the
authority's own log. Power cut between the last two: the mirror is ahead by a verified head, which the next ingest
records first. Power cut before: the tiles behind the shown checkpoint are written again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from birthmark.errors import Tampered
from birthmark.ports import LogStore
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint
from birthmark.tlog.merkle import Frontier, leaf_hashes
from birthmark.tlog.tiles import ENTRIES, TILE_WIDTH, HashReader, Tile, encode_entries, load_entries
from birthmark.workflow.log.tilefiles import write_tiles

__all__ = ["SiteMirror"]

_STEP = 1 << 13
"""Entries written at once."""
_KEPT_BUNDLES = 64


class SiteMirror:
    """``size`` entries of a site's log below a log store. Whoever grows it holds the site's lock."""

    def __init__(self, store: LogStore, *, origin: str, vkey: str) -> None:
        self._store = store
        self._origin = origin
        self._vkey = vkey
        self._bundles: OrderedDict[int, list[bytes]] = OrderedDict()
        note = store.read("checkpoint")
        self.checkpoint = b"" if note is None else note
        self.head: Checkpoint | None = None if note is None else open_checkpoint(note, origin, vkey)

    @property
    def size(self) -> int:
        """Entries under the checkpoint that is shown."""
        return 0 if self.head is None else self.head.size

    def frontier(self, size: int) -> Frontier:
        """Return the edge of the first ``size`` entries; at most ``self.size``."""
        return Frontier.load(size, HashReader(self.size, self._store.read)) if size else Frontier()

    def require_whole(self) -> None:
        """Refuse tiles that do not lead to the checkpoint: ``Tampered("site.mirror.differs")``."""
        if self.head is not None and self.frontier(self.size).root() != self.head.root:
            raise Tampered(
                "site.mirror.differs",
                f"the kept log of {self._origin} is not the one that was verified",
                hint="Restore its directory below sites/ from a backup; then ingest the report again.",
                size=self.size,
            )

    def grow(
        self, first: int, pieces: Iterable[list[bytes]], checkpoint: bytes, *, progress: Callable[[int], None]
    ) -> None:
        """Append entries up to a verified checkpoint; it is durable on return.

        ``pieces`` begin at entry ``first``; what the mirror has is passed over. ``Tampered("report.changed")`` if
        they lead to another root than the checkpoint's: then nothing is shown.
        """
        head = open_checkpoint(checkpoint, self._origin, self._vkey)
        at = self.size
        held: list[bytes] = []
        for piece in pieces:
            fresh = piece[max(0, at + len(held) - first) :]
            first += len(piece)
            held += fresh
            if len(held) >= _STEP:
                self._write(at, held)
                at, held = at + len(held), []
            progress(len(piece))
        if held:
            self._write(at, held)
        if at + len(held) != head.size or self._written(head.size).root() != head.root:
            raise Tampered(
                "report.changed",
                "the report changed while it was read",
                hint="Copy it to this machine and ingest that copy.",
                size=head.size,
            )
        self._store.publish(checkpoint)
        self.checkpoint, self.head = checkpoint, head
        self._bundles.clear()

    def _written(self, size: int) -> Frontier:
        """Return the edge of the first ``size`` entries as the tiles have it, shown or not."""
        return Frontier.load(size, HashReader(size, self._store.read)) if size else Frontier()

    def _write(self, at: int, entries: list[bytes]) -> None:
        hashes = b"".join(leaf_hashes(entries))
        index, kept = divmod(at, TILE_WIDTH)
        before = load_entries(Tile(ENTRIES, index, kept), self._store.read) if kept else []
        write_tiles(self._store, at, hashes, (encode_entries(before), encode_entries(entries)))

    def entries(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield (number, entry) of entries ``first`` to ``last - 1``."""
        for index in range(first // TILE_WIDTH, -(-last // TILE_WIDTH)):
            start = index * TILE_WIDTH
            bundle = self._bundle(index)
            for number in range(max(first, start), min(last, start + TILE_WIDTH)):
                yield number, bundle[number - start]

    def entry(self, number: int) -> bytes:
        """Return one entry."""
        return self._bundle(number // TILE_WIDTH)[number % TILE_WIDTH]

    def _bundle(self, index: int) -> list[bytes]:
        bundle = self._bundles.pop(index, None)
        if bundle is None:
            width = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
            bundle = load_entries(Tile(ENTRIES, index, width), self._store.read)
            if len(self._bundles) >= _KEPT_BUNDLES:
                self._bundles.popitem(last=False)
        self._bundles[index] = bundle
        return bundle
