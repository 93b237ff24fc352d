"""At a site: write all that the authority has not acknowledged into one report."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from birthmark.errors import Refused, Tampered
from birthmark.ports import LogStore, Publisher
from birthmark.tlog.merkle import Frontier
from birthmark.tlog.tiles import HashReader
from birthmark.wire.report import Acknowledgement, ReportHeader, write_report

__all__ = ["acknowledged_size", "report_log"]

_STEP = 4096


def acknowledged_size(ack: Acknowledgement, *, publisher: Publisher, store: LogStore, origin: str) -> int:
    """Return how much of this log the authority has.

    ``Refused("report.ack.foreign")``: it is of another log. ``Tampered("report.ack.differs")``: the authority knows
    another log of this name, so this ledger is an old copy or a clone, and must not go on.
    """
    if ack.origin != origin:
        raise Refused(
            "report.ack.foreign",
            f"this acknowledges the log {ack.origin[:200]}, not {origin}",
            hint="Give the file `ack` that `birthmark site ingest` wrote for this site.",
            origin=ack.origin[:200],
        )
    size = publisher.publication().size
    root = _edge(ack.size, size, store).root().hex() if ack.size <= size else ""
    if root != ack.root:
        raise Tampered(
            "report.ack.differs",
            f"the authority has {ack.size} entries of this log, and they are not those that are here",
            hint="This ledger is an old copy or a clone of the site: stop its stations and tell the authority.",
            acknowledged=ack.size,
            size=size,
        )
    return ack.size


def report_log(
    write: Callable[[bytes], object],
    *,
    publisher: Publisher,
    store: LogStore,
    origin: str,
    since: int,
    progress: Callable[[int], None] = lambda count: None,
) -> ReportHeader:
    """Write the report of the last published head through ``write``; return its header.

    ``since``: how many entries the authority has; it may have more. Memory does not grow with the log.
    ``Refused("report.since")`` if the log is shorter.
    """
    publication = publisher.publication()
    if not 0 <= since <= publication.size:
        raise Refused(
            "report.since",
            f"there are {publication.size} entries, a report cannot begin at {since}",
            hint="Leave --since out to report the whole log; the authority takes what it does not have.",
            since=since,
            size=publication.size,
        )
    edge = _edge(since, publication.size, store)
    header = ReportHeader(
        origin=origin, first=since, size=publication.size, edge=tuple(item.hex() for item in edge.hashes)
    )

    def pieces() -> Iterator[bytes]:
        for first in range(since, publication.size, _STEP):
            count = min(_STEP, publication.size - first)
            yield from publisher.packed(first, count)
            progress(count)

    write_report(write, header, publication.checkpoint, pieces())
    return header


def _edge(at: int, size: int, store: LogStore) -> Frontier:
    return Frontier.load(at, HashReader(size, store.read))
