"""A log that split in two: which entries differ, and which devices both sides touched."""

from __future__ import annotations

from collections.abc import Iterable

from birthmark.errors import Tampered
from birthmark.model.events import decode_entry
from birthmark.workflow.homecoming.sitefindings import Contradiction
from birthmark.workflow.homecoming.sitemirror import SiteMirror

__all__ = ["fork_contradictions"]

_MOST_REMEMBERED = 100_000
_MOST_NAMED = 256


def fork_contradictions(
    mirror: SiteMirror, *, first: int, pieces: Iterable[list[bytes]], checkpoint: bytes
) -> list[Contradiction]:
    """Return the findings about a report whose head contradicts the one of ``mirror``: both are signed by the site.

    ``pieces`` are the report's entries from ``first`` on. The first finding is about the site and holds both heads;
    one more follows for each device that both sides touched, 256 at most.
    """
    split: int | None = None
    theirs: dict[str, int] = {}
    for number, entry in _numbered(first, pieces):
        if split is None and number < mirror.size and mirror.entry(number) == entry:
            continue
        split = number if split is None else split
        serial = _device_of(entry)
        if serial is not None and len(theirs) < _MOST_REMEMBERED:
            theirs.setdefault(serial, number)
    # Where the report begins behind the split, all that is known of ours counts as the other side.
    begin = 0 if split is None or split == first else split
    ours = {serial for _, entry in mirror.entries(begin, mirror.size) if (serial := _device_of(entry)) in theirs}
    both = sorted((theirs[serial], serial) for serial in ours if serial is not None)
    told = f"its log was rewritten, rolled back or cloned: two signed heads disagree{_where(split, first)}"
    general = Contradiction(
        "site.fork",
        f"{told}; {len(both)} devices were touched on both sides",
        entry=first if split is None else split,
        evidence=mirror.checkpoint + b"\n" + checkpoint,
    )
    named = [
        Contradiction("site.fork", "the device was touched on both sides of a split log", entry=number, device=serial)
        for number, serial in both[:_MOST_NAMED]
    ]
    return [general, *named]


def _where(split: int | None, first: int) -> str:
    if split is None or split == first:
        return ""
    return f" from entry {split} on"


def _numbered(first: int, pieces: Iterable[list[bytes]]) -> Iterable[tuple[int, bytes]]:
    for piece in pieces:
        yield from enumerate(piece, first)
        first += len(piece)


def _device_of(entry: bytes) -> str | None:
    try:
        event, _ = decode_entry(entry)
    except Tampered:
        return None
    serial = getattr(event, "device", None)
    return serial if isinstance(serial, str) else None
