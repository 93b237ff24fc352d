"""The audit of a workspace: three passes over ranges and shards, in as many processes as there are."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from birthmark import __version__
from birthmark.adapters.audit import tables
from birthmark.adapters.audit.authorities import check_authorities, check_authority_files, check_templates
from birthmark.adapters.audit.dualcontrol import check_dual_control
from birthmark.adapters.audit.extras import name_extra_rows
from birthmark.adapters.audit.findings import CATALOGUE, Finding, Findings
from birthmark.adapters.audit.heads import (
    HeadCheck,
    LedgerHead,
    check_heads,
    check_serial_time,
    check_unexpected,
    check_upper_tiles,
    log_key,
    published_size,
)
from birthmark.adapters.audit.identitypart import IdentityPart
from birthmark.adapters.audit.identitypass import pass_identities
from birthmark.adapters.audit.index import Index
from birthmark.adapters.audit.logcheck import LogKey, Tree
from birthmark.adapters.audit.logpass import LogPart, check_clock, pass_log, read_range
from birthmark.adapters.audit.mirrorpass import check_mirrors
from birthmark.adapters.audit.possession import check_possession
from birthmark.adapters.audit.preloads import check_manifests
from birthmark.adapters.audit.reader import LedgerReader, LogFiles
from birthmark.adapters.audit.shardpass import ShardPart, pass_shard
from birthmark.adapters.audit.spill import shard_count
from birthmark.adapters.audit.workers import Workers
from birthmark.errors import Tampered, Unavailable

__all__ = ["Report", "verify_workspace"]

_RANGE = 8192
"""Entries a task: a multiple of 256, small enough for a steady progress bar and a bounded memory."""


@dataclass(slots=True)
class Report:
    """The result. ``totals`` counts findings by code, also those beyond what ``findings`` lists.

    ``sites``: each site that reported, and the name of its log. ``witnessed``: directory of a log to what witnesses saw
    of it; empty unless somebody who has a policy looked.
    """

    origin: str
    size: int
    published: int
    root: str
    software: str
    processes: int
    counts: dict[str, int]
    orders: dict[str, dict[str, int]]
    findings: list[Finding]
    totals: dict[str, int]
    seconds: dict[str, float]
    sites: dict[str, str] = field(default_factory=dict)
    witnessed: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """The number of findings that break an invariant."""
        return sum(count for code, count in self.totals.items() if CATALOGUE[code][1] == "error")

    def add(self, findings: Findings) -> None:
        """Take in what was found beside the passes."""
        self.findings = _sorted([*self.findings, *findings.kept])
        self.totals = dict(sorted((Counter(self.totals) + findings.totals).items()))

    def document(self) -> dict[str, object]:
        """Return the report as a JSON-ready object."""
        names = (
            "origin",
            "size",
            "published",
            "root",
            "software",
            "processes",
            "counts",
            "orders",
            "totals",
            "seconds",
            "witnessed",
        )
        return {
            "ok": self.errors == 0,
            **{name: getattr(self, name) for name in names},
            "findings": [finding.document() for finding in self.findings],
        }


@dataclass(slots=True)
class _Audit:
    root: Path
    reader: LedgerReader
    head: LedgerHead
    files: LogFiles
    workers: Workers
    scratch: Path
    progress: Callable[[int, int], None]
    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    manifests: tuple[Counter[str], Counter[str], Counter[str]] = field(
        default_factory=lambda: (Counter(), Counter(), Counter())
    )
    """Manifest to identities, manifest to entries, CA to preloaded identities."""
    findings: Findings = field(default_factory=Findings)

    @property
    def ledger(self) -> Path:
        return self.reader.path

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return [(at, min(at + _RANGE, self.head.size)) for at in range(0, self.head.size, _RANGE)]

    def step(self, entries: int) -> None:
        self.done += entries
        self.progress(self.done, 2 * self.head.size)

    def guarded(self, what: str, call: Callable[[], None]) -> None:
        """Run one check; damage of the ledger file that stops it is a finding."""
        try:
            call()
        except Tampered as problem:
            if problem.code != "audit.ledger.unreadable":
                raise
            self.findings.add("audit.ledger.unreadable", problem.message, what)


def verify_workspace(
    root: Path,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    vkey: str | None = None,
    kept_heads: Sequence[Path] = (),
) -> Report:
    """Check every invariant of the workspace in ``root`` and return what was found.

    ``processes``: all cores by default. ``progress`` gets (done, total) in entry passes. ``vkey``: the log's
    verifier key as the auditor knows it (default: the file ``log/vkey``). ``kept_heads``: checkpoint files kept from
    earlier; each must be a head of this same log.

    Raises ``Misconfigured`` when there is nothing to audit, ``Unavailable("audit.ledger.moved")`` when somebody wrote
    meanwhile, ``StationFault`` when a worker dies. Whatever contradicts the record is a finding, not an error.
    """
    started = time.monotonic()
    reader = LedgerReader(root / "ledger" / "ledger.db")
    try:
        head = _read_head(reader)
        size = 1 if head.size <= _RANGE else processes or os.cpu_count() or 1
        with tempfile.TemporaryDirectory(prefix="birthmark-audit-") as scratch, Workers(processes or size) as workers:
            audit = _Audit(
                root, reader, head, LogFiles(root / "log"), workers, Path(scratch), progress or (lambda _d, _t: None)
            )
            report = _run(audit, vkey, kept_heads)
        if reader.was_written() or _read_head(reader) != head:
            raise Unavailable(
                "audit.ledger.moved",
                "somebody wrote into the ledger during the audit",
                hint="Stop the writers, or audit a copy of the workspace directory.",
            )
    finally:
        reader.close()
    report.seconds["total"] = round(time.monotonic() - started, 3)
    return report


def _read_head(reader: LedgerReader) -> LedgerHead:
    rows = reader.all("SELECT size, published, frontier, checkpoint, serial_time FROM head")
    if len(rows) == 1:
        size, published, frontier, checkpoint, serial_time = rows[0]
        numbers = isinstance(size, int) and isinstance(published, int) and 0 <= size < 1 << 40 and published >= 0
        if numbers and isinstance(frontier, bytes) and isinstance(checkpoint, bytes) and isinstance(serial_time, int):
            return LedgerHead(size, published, frontier, checkpoint, serial_time)
    raise Tampered(
        "audit.ledger.unreadable",
        "table head does not hold one head",
        hint="Restore the ledger from a copy; the log tiles tell what it must contain.",
    )


def _run(audit: _Audit, vkey: str | None, kept_heads: Sequence[Path]) -> Report:
    clock, seconds = time.monotonic(), {}
    key = log_key(audit.files, vkey, audit.findings)
    parts = _log_pass(audit)
    indexed = [item for part in parts for item in part.indexed]
    intents = [item for part in parts for item in part.intents]
    check_dual_control(indexed, audit.findings)
    index, fold, hashes = tables.build_index(indexed, intents, audit.findings)
    origin = fold.meta.get("origin", "")
    tree, root = _check_log(audit, parts, origin, key, kept_heads)
    seconds["log"], clock = round(time.monotonic() - clock, 3), time.monotonic()
    shards = shard_count(audit.head.size)
    _identity_pass(audit, index, shards)
    audit.counts.update(check_mirrors(audit.root, audit.scratch, shards, index, audit.workers, audit.findings))
    audit.counts["signatures"] += check_authorities(index, hashes, audit.findings)
    audit.counts["signatures"] += check_possession(indexed, index.authorities, audit.findings)
    check_templates(index, audit.findings)
    check_authority_files(audit.root, index, audit.findings)
    seconds["identities"], clock = round(time.monotonic() - clock, 3), time.monotonic()
    orders = _shard_pass(audit, index, shards)
    used = audit.manifests[2]
    check_manifests(index, *audit.manifests, audit.findings)
    audit.guarded("small tables", lambda: tables.check_tables(audit.reader, index, fold, used, audit.findings))
    runs = audit.ledger.parent / "runs"
    audit.guarded("table key_run", lambda: tables.check_key_runs(audit.reader, runs, audit.findings))
    audit.guarded("row counts", lambda: _check_row_counts(audit, index))
    fold.check_bundles(audit.received)
    seconds["devices"] = round(time.monotonic() - clock, 3)
    return Report(
        origin=origin,
        size=tree.size,
        published=audit.head.published,
        root=root,
        software=__version__,
        processes=audit.workers.processes,
        counts=dict(sorted(audit.counts.items())),
        orders=orders,
        findings=_sorted(audit.findings.kept),
        totals=dict(sorted(audit.findings.totals.items())),
        seconds=seconds,
        sites={site.site: site.origin for site in index.sites if site.reported},
    )


_RANK = {"error": 0, "warning": 1, "info": 2}


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (_RANK[finding.severity], finding.code))


def _log_pass(audit: _Audit) -> list[LogPart]:
    published = published_size(audit.files, audit.head)
    log = audit.files.root
    tasks = [(audit.ledger, log, first, last, published) for first, last in audit.ranges]
    parts = []
    for part in audit.workers.each(pass_log, tasks):
        parts.append(part)
        audit.findings.merge(part.findings)
        audit.step(_RANGE if part.first + _RANGE <= audit.head.size else audit.head.size - part.first)
    parts.sort(key=lambda part: part.first)
    latest = ""
    for part in parts:
        audit.counts["tiles"] += part.tiles
        audit.counts["reservations"] += part.reservations
        if part.first_at and part.first_at < latest:
            check_clock(latest, part.first_at, part.first, audit.findings)
        latest = max(latest, part.last_at)
    return parts


def _check_log(
    audit: _Audit, parts: Sequence[LogPart], origin: str, key: LogKey, kept_heads: Sequence[Path]
) -> tuple[Tree, str]:
    blocks = [root for part in parts for root in part.roots]
    rest = _leaves(audit.reader, 256 * len(blocks), audit.head.size)
    tree = Tree(blocks, rest)
    changed = {block: root for part in parts for block, root in part.disk_roots.items()}
    disk = Tree([changed.get(at, root) for at, root in enumerate(blocks)], rest) if changed else None
    check = HeadCheck(origin, key, tree, lambda size: _leaves(audit.reader, size // 256 * 256, size), disk)
    check_heads(audit.files, audit.head, check, kept_heads, audit.findings)
    due = published_size(audit.files, audit.head)
    audit.counts["tiles"] += check_upper_tiles(audit.files, blocks, due, audit.findings)
    check_serial_time(audit.head, max(part.last_prefix for part in parts) if parts else "", audit.findings)
    check_unexpected(audit.files, tree.size, audit.findings)
    return tree, tree.root(tree.size, rest).hex()


def _leaves(reader: LedgerReader, first: int, last: int) -> bytes:
    pieces, _ = read_range(reader, first, last, None) if first < last else ([], b"")
    return b"".join([sha256(b"\0" + piece[2:]).digest() for piece in pieces])


def _identity_pass(audit: _Audit, index: Index, shards: int) -> None:
    index.save(audit.scratch / "index")
    bulk: dict[int, tuple[int, int]] = {}
    rows: dict[int, tuple[str, int | None]] = {}
    without_vault: list[int] = []
    tasks = [(audit.ledger, audit.scratch, first, last, shards) for first, last in audit.ranges]
    for (first, last), part in zip(audit.ranges, audit.workers.ordered(pass_identities, tasks), strict=True):
        audit.findings.merge(part.findings)
        _merge_bulk(bulk, part, audit.findings)
        rows.update(part.bulk_rows)
        without_vault += part.without_vault
        audit.received.update(part.received)
        for counter, more in zip(
            audit.manifests, (part.preload_counts, part.preload_chunks, part.preload_used), strict=True
        ):
            counter.update(more)
        for name in (
            "certificates", "signatures", "devices", "keys", "attempts", "revocations", "site_keys", "preloaded"
        ):  # fmt: skip
            audit.counts[name] += getattr(part, name)
        audit.step(last - first)
    tables.settle_chunks(index, bulk, audit.findings)
    tables.check_bulk(index, rows, without_vault, audit.findings)
    audit.counts["bulk_rows"] = len(rows)
    index.save(audit.scratch / "settled")


def _merge_bulk(bulk: dict[int, tuple[int, int]], part: IdentityPart, findings: Findings) -> None:
    for intent, (first, mask) in part.bulk.items():
        known, seen = bulk.get(intent, (first, 0))
        if known != first or seen & mask:
            what = f"the certificates of intent {intent} are not one run of entries"
            findings.add("audit.intent.reused", what, f"entry {first}")
        bulk[intent] = (known, seen | mask)


def _shard_pass(audit: _Audit, index: Index, shards: int) -> dict[str, dict[str, int]]:
    touched: Counter[tuple[str, int, str]] = Counter()
    closed: Counter[str] = Counter()
    taken: Counter[tuple[str, int]] = Counter()
    tasks = [(audit.ledger, audit.scratch, shard) for shard in range(shards)]
    part: ShardPart
    for part in audit.workers.each(pass_shard, tasks):
        audit.findings.merge(part.findings)
        audit.counts.update(part.counts)
        touched.update(part.states)
        closed.update(part.closed)
        taken.update(part.taken)
    tables.check_handed_out(index, taken, closed, audit.findings)
    return tables.count_orders(index, touched, audit.findings)


def _check_row_counts(audit: _Audit, index: Index) -> None:
    """Compare row counts: every expected row was looked up already, so more rows mean rows without an entry."""
    counts = audit.counts
    expected = {
        "device": counts["devices"],
        "certificate": counts["reservations"],
        "attempt": counts["distinct_attempts"],
        "revoked": counts["revocations"],
        "settled": counts["settled"],
        "site_key": counts["site_keys"],
        "preload": counts["preloaded"],
    }
    for table, count in expected.items():
        ((rows,),) = audit.reader.all(f'SELECT count(*) FROM "{table}"')  # noqa: S608 - literals above
        if rows != count:
            what = f"table {table} has {rows} rows, the log makes {count}"
            audit.findings.add(_COUNT_CODES[table], what, f"table {table}")
            if rows > count:
                name_extra_rows(audit.reader, index, table, audit.findings)


_COUNT_CODES = {
    "device": "audit.fold.device",
    "certificate": "audit.fold.certificate",
    "attempt": "audit.fold.attempt",
    "revoked": "audit.fold.revoked",
    "settled": "audit.fold.settled",
    "site_key": "audit.fold.site_key",
    "preload": "audit.fold.preload",
}
