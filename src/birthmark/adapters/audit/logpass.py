"""First pass over a range of the log: entries against leaf hashes, tiles and bundles; what the rest must know."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from birthmark.adapters.audit.entries import ISSUED, Document, canonical_fault, parse_head, split_packed
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.logcheck import pairs_root
from birthmark.adapters.audit.reader import LedgerReader, LogFiles, tile_path
from birthmark.errors import Tampered

__all__ = ["SITE_TYPES", "LogPart", "check_clock", "pass_log", "read_range"]

CONTROL_TYPES = frozenset(
    ("workspace_created", "software_changed", "station_added", "ca_created", "template_admitted", "order_created",
     "preload_taken_in", "vendor_delegated")
)  # fmt: skip
_TOLD = frozenset(
    ("site_added", "access_granted", "site_reported", "grant_accepted", "bundle_opened", "approval_used",
     "ca_key_destroyed")
)  # fmt: skip
"""Events of sites and approvals whose attachment is a document."""
SITE_TYPES = _TOLD | frozenset(
    ("site_stopped", "site_resumed", "access_withdrawn", "order_assigned", "bundle_sealed", "consigned",
     "site_settled", "finding_raised", "bundle_closed", "approvers_set")
)  # fmt: skip
POSSESSION_TYPES = frozenset(("possession_intended", "possession_proven"))
_INDEXED = CONTROL_TYPES | SITE_TYPES | POSSESSION_TYPES | {"devices_ordered", "abandoned", "superseded"}
_ATTACHED = CONTROL_TYPES | _TOLD | {"possession_proven"}
_CLOCK_TOLERANCE_S = 600
"""Entries of one pipeline are timed by several processes and written in another order than they were made."""
_ZERO = bytes(32)
sha256 = hashlib.sha256


@dataclass(slots=True)
class LogPart:
    """What the first pass learned of one range. ``roots`` are those of its complete blocks of 256 leaves."""

    first: int
    roots: list[bytes] = field(default_factory=list)
    disk_roots: dict[int, bytes] = field(default_factory=dict)
    """Block to the root of the level 0 tile on disk, where that differs."""
    indexed: list[tuple[int, Document, bytes]] = field(default_factory=list)
    intents: list[tuple[int, Document]] = field(default_factory=list)
    """Bulk reservations, without their records."""
    reservations: int = 0
    last_prefix: str = ""
    """The greatest certificate serial prefix, hex."""
    tiles: int = 0
    first_at: str = ""
    last_at: str = ""
    findings: Findings = field(default_factory=Findings)


def read_range(reader: LedgerReader, first: int, last: int, findings: Findings | None) -> tuple[list[bytes], bytes]:
    """Return entries ``first .. last-1``, each with its length in front (empty if unreadable), and stored leaf hashes.

    ``findings`` is None in passes that come after the one that reports damage.
    """
    pieces: list[bytes] = []
    hashes: list[bytes] = []
    at = first
    try:
        for start, count, body, leaves in reader.rows(first, last):
            stop = min(start + count, last)
            if stop <= at:
                continue
            if start > at:
                _missing(findings, at, min(start, last))
                pieces += [b""] * (start - at)
                hashes.append(_ZERO * (start - at))
                at = start
            found = split_packed(body, count)
            if found is None:
                if findings is not None:
                    what = f"the row of entries {start} to {start + count - 1} is not {count} packed entries"
                    findings.add("audit.entry.malformed", what, f"table entry, row {start}")
                found = [b""] * count
            if len(leaves) != 32 * count:
                if findings is not None:
                    what = f"{len(leaves)} octets are not {count} leaf hashes"
                    findings.add("audit.entry.hash", what, f"table entry, row {start}")
                leaves = leaves[: 32 * count].ljust(32 * count, b"\0")
            pieces += found[at - start : stop - start]
            hashes.append(leaves[32 * (at - start) : 32 * (stop - start)])
            at = stop
    except Tampered as problem:
        if findings is not None:
            findings.add("audit.ledger.unreadable", problem.message, f"table entry, entries {at} to {last - 1}")
        pieces += [b""] * (last - at)
        hashes.append(_ZERO * (last - at))
        at = last
    if at < last:
        _missing(findings, at, last)
        pieces += [b""] * (last - at)
        hashes.append(_ZERO * (last - at))
    return pieces, b"".join(hashes)


def _missing(findings: Findings | None, first: int, last: int) -> None:
    if findings is not None:
        findings.add("audit.entry.gap", f"entries {first} to {last - 1} are missing", f"table entry, row {first}")


def pass_log(ledger: Path, log: Path, first: int, last: int, published: int) -> LogPart:
    """Check entries ``first .. last-1`` (``first`` a multiple of 256) and the tiles of level 0 that hold them."""
    reader, files, part = LedgerReader(ledger), LogFiles(log), LogPart(first)
    try:
        pieces, stored = read_range(reader, first, last, part.findings)
    finally:
        reader.close()
    computed = b"".join([sha256(b"\0" + piece[2:]).digest() for piece in pieces])
    _read_entries(pieces, first, part)
    if computed != stored:
        for at, piece in enumerate(pieces):
            if piece and computed[32 * at : 32 * at + 32] != stored[32 * at : 32 * at + 32]:
                what = f"entry {first + at}{_names(piece)} does not have the leaf hash that is stored with it"
                part.findings.add("audit.entry.hash", what, f"entry {first + at}", _device(piece))
    for at in range(0, last - first, 256):
        block = pieces[at : at + 256]
        leaves = computed[32 * at : 32 * (at + 256)]
        if len(block) == 256:
            part.roots.append(pairs_root(leaves))
        _check_block(files, (first + at) // 256, block, leaves, published, part)
    return part


def _read_entries(pieces: list[bytes], first: int, part: LogPart) -> None:
    last_at, issued_at, is_issued = "", b"", ISSUED.match
    for at, piece in enumerate(pieces):
        issued = is_issued(piece, 2)
        if issued is not None:
            if issued[1] != issued_at:
                issued_at = issued[1]
                last_at = _later(last_at, issued_at.decode(), first + at, part)
            continue
        if not piece:
            continue
        seq, feed = first + at, piece.find(b"\n", 2)
        head = piece[2:feed]
        document = parse_head(head) if feed >= 0 else None
        if document is None:
            part.findings.add("audit.entry.malformed", f"entry {seq} is not an event", f"entry {seq}")
            continue
        fault = canonical_fault(head, document)
        if fault is not None:
            what = f"entry {seq}{_names(piece)} is not a lawful event: {fault}"
            part.findings.add("audit.entry.canonical", what, f"entry {seq}", _device(piece))
            continue
        last_at = _later(last_at, document["at"], seq, part)
        kind = document["type"]
        if kind in _INDEXED:
            part.indexed.append((seq, document, piece[feed + 1 :] if kind in _ATTACHED else b""))
        elif kind in ("reserved", "requested"):
            part.reservations += 1
            part.last_prefix = max(part.last_prefix, document.get("serial_prefix", ""))
            if document.get("chunk") is not None:
                part.intents.append((seq, document))
    part.last_at = last_at


def _later(last_at: str, moment: str, seq: int, part: LogPart) -> str:
    """Return the later of two times; note the first one, and a clock that went back."""
    part.first_at = part.first_at or moment
    if moment < last_at:
        check_clock(last_at, moment, seq, part.findings)
        return last_at
    return moment


def check_clock(before: str, after: str, seq: int, findings: Findings) -> None:
    """Warn when time goes back by more than a pipeline explains. Both are RFC 3339 in UTC."""
    try:
        lag = (datetime.fromisoformat(before) - datetime.fromisoformat(after)).total_seconds()
    except ValueError:
        findings.add("audit.entry.canonical", f"the time of entry {seq} does not exist", f"entry {seq}")
        return
    if lag > _CLOCK_TOLERANCE_S:
        findings.add("audit.clock.back", f"entry {seq} says {after}, an earlier one {before}", f"entry {seq}")


def _check_block(
    files: LogFiles, block: int, pieces: list[bytes], leaves: bytes, published: int, part: LogPart
) -> None:
    """Compare the tile of level 0 and the entry bundle of one block, all widths there are, with the ledger."""
    due = min(max(published - 256 * block, 0), 256)
    for level in ("0", "entries"):
        served = 0
        widths = files.widths(level, block)
        for width in (*widths, 256):
            path = tile_path(level, block, width)
            data = files.read(path)
            if data is None:
                continue
            part.tiles += 1
            items = [leaves[at : at + 32] for at in range(0, len(leaves), 32)] if level == "0" else pieces
            same = data == b"".join(items[:width]) and width <= len(items)
            if due <= width and (same or data.startswith(b"".join(items[:due]))):
                served += width in (due, 256)
            if same:
                continue
            if width <= due:
                served += width == due  # it is there, and the next line says what is wrong with it
                _name_difference(level, block, path, data, pieces[:width], leaves, part)
            else:
                # A writer that was killed may leave such a file; the next publication replaces it.
                what = f"{path} is ahead of the checkpoint and not what the ledger has"
                part.findings.add("audit.tile.unexpected", what, path)
        if due and not served:
            path = tile_path(level, block, due)
            part.findings.add("audit.tile.missing", f"{path} is missing", path)


def _name_difference(
    level: str, block: int, path: str, data: bytes, pieces: list[bytes], leaves: bytes, part: LogPart
) -> None:
    if level == "0":
        if len(data) != 32 * len(pieces):
            what = f"{path} has {len(data)} octets instead of {32 * len(pieces)}"
            part.findings.add("audit.tile.mismatch", what, path)
            return
        if len(pieces) == 256:
            part.disk_roots[block] = pairs_root(data)
        differing = [at for at in range(len(pieces)) if data[32 * at : 32 * at + 32] != leaves[32 * at : 32 * at + 32]]
        named: list[str | None] = [None] * len(differing)
    else:
        found = split_packed(data, len(pieces))
        if found is None:
            part.findings.add("audit.tile.mismatch", f"{path} is not {len(pieces)} packed entries", path)
            return
        differing = [at for at, piece in enumerate(pieces) if found[at] != piece]
        named = [_device(found[at]) for at in differing]
    for at, other in zip(differing, named, strict=True):
        seq = 256 * block + at
        also = f", the bundle names device {ascii(other)[1:-1]}" if other not in (None, _device(pieces[at])) else ""
        what = f"{path} differs from the ledger in entry {seq}{_names(pieces[at])}{also}"
        part.findings.add("audit.tile.mismatch", what, f"{path}, entry {seq}", _device(pieces[at]))


def _device(piece: bytes) -> str | None:
    document = parse_head(piece[2 : max(piece.find(b"\n", 2), 2)])
    device = document.get("device") if document is not None else None
    return device if isinstance(device, str) else None


def _names(piece: bytes) -> str:
    device = _device(piece)
    return "" if device is None else f" (device {ascii(device)[1:-1]})"
