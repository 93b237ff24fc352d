"""The signed heads: the published checkpoint, the one in the ledger, and any that the auditor kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.logcheck import Head, LogKey, Tree, open_head, pairs_root, read_vkey
from birthmark.adapters.audit.reader import LogFiles, tile_path
from birthmark.errors import BirthmarkError, Misconfigured, Tampered

__all__ = [
    "HeadCheck",
    "LedgerHead",
    "check_heads",
    "check_serial_time",
    "check_unexpected",
    "check_upper_tiles",
    "log_key",
    "published_size",
]

Leaves = Callable[[int], bytes]
"""A size to the leaf hashes of its last, incomplete block of 256."""


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """The row of table ``head``."""

    size: int
    published: int
    frontier: bytes
    checkpoint: bytes
    serial_time: int


@dataclass(frozen=True, slots=True)
class HeadCheck:
    """What the heads are checked against. ``disk`` is the tree of the tiles where they differ, else None."""

    origin: str
    key: LogKey
    tree: Tree
    leaves: Leaves
    disk: Tree | None


def _open(note: bytes, key: LogKey, where: str, findings: Findings) -> Head | None:
    try:
        return open_head(note, key)
    except Tampered as problem:
        code = "audit.checkpoint.signature" if problem.code == "audit.note.signature" else "audit.checkpoint.malformed"
        findings.add(code, f"{where}: {problem.message}", where)
        return None


def published_size(files: LogFiles, row: LedgerHead) -> int:
    """Return how many entries the files should show; nothing is verified here.

    A crash may leave a head recorded that the files do not show yet, so the checkpoint file decides if it can.
    """
    note = files.read("checkpoint")
    lines = (note or b"").split(b"\n", 2)
    decimal = lines[1] if len(lines) == 3 else b""
    claimed = int(decimal) if decimal.isdigit() and len(decimal) < 19 else row.published
    return min(claimed, row.size)


def check_heads(
    files: LogFiles, row: LedgerHead, check: HeadCheck, kept: Sequence[Path], findings: Findings
) -> Head | None:
    """Check all heads; return the published one."""
    note = files.read("checkpoint")
    published = None
    if note is not None:
        published = _open(note, check.key, "log/checkpoint", findings)
    elif row.published or row.checkpoint:
        findings.add("audit.checkpoint.missing", f"a head of {row.published} entries was signed", "log/checkpoint")
    recorded = _open(row.checkpoint, check.key, "table head, checkpoint", findings) if row.checkpoint else None
    heads = [("log/checkpoint", published), ("table head, checkpoint", recorded)]
    for path in kept:
        try:
            heads.append((str(path), _open(path.read_bytes(), check.key, str(path), findings)))
        except OSError as problem:
            raise Misconfigured(
                "audit.head.unreadable",
                f"the kept checkpoint {path} cannot be read: {problem.strerror}",
                hint="Name checkpoint files that were copied from this log.",
                path=str(path),
            ) from problem
    for where, head in heads:
        if head is not None:
            _check_head(where, head, check, findings)
    _compare(published, recorded, row, findings)
    _check_frontier(row, check, findings)
    if row.size > max(row.published, 0):
        what = f"{row.size - row.published} entries wait for the next checkpoint"
        findings.add("audit.entry.unpublished", what, f"entries {row.published} to {row.size - 1}")
    return published


def _check_head(where: str, head: Head, check: HeadCheck, findings: Findings) -> None:
    if head.origin != check.origin:
        findings.add("audit.checkpoint.origin", f"{where} is the head of {head.origin}, not of {check.origin}", where)
    if head.size > check.tree.size:
        what = f"{where} covers {head.size} entries, the ledger has {check.tree.size}: it was set back or lost entries"
        findings.add("audit.checkpoint.rollback", what, where)
        return
    if check.tree.root(head.size, check.leaves(head.size)) != head.root:
        what = f"the first {head.size} entries of the ledger do not hash to the root in {where}"
        findings.add("audit.checkpoint.root", what, where)
    if (
        check.disk is not None
        and where == "log/checkpoint"
        and check.disk.root(head.size, check.leaves(head.size)) != head.root
    ):
        findings.add("audit.tile.root", f"the tiles do not hash to the root in {where}", where)


def _compare(published: Head | None, recorded: Head | None, row: LedgerHead, findings: Findings) -> None:
    if recorded is not None and recorded.size != row.published:
        what = f"published is {row.published}, the checkpoint beside it covers {recorded.size}"
        findings.add("audit.fold.head", what, "table head, published")
    if published is None or recorded is None:
        if published is not None and published.size and recorded is None:
            what = f"log/checkpoint covers {published.size} entries, the ledger remembers no signed head"
            findings.add("audit.checkpoint.rollback", what, "table head, checkpoint")
        return
    if published.size > recorded.size:
        what = f"log/checkpoint covers {published.size} entries, the ledger signed {recorded.size}: it was set back"
        findings.add("audit.checkpoint.rollback", what, "table head, checkpoint")
    elif published.size < recorded.size:
        what = f"log/checkpoint covers {published.size} entries, {recorded.size} were signed: publish again"
        findings.add("audit.checkpoint.behind", what, "log/checkpoint")
    elif published.root != recorded.root:
        what = f"log/checkpoint and the ledger have two roots for {published.size} entries"
        findings.add("audit.checkpoint.fork", what, "log/checkpoint")


def check_serial_time(row: LedgerHead, last_prefix: str, findings: Findings) -> None:
    """Check that the clock of certificate serials is not behind a prefix that was used (it would be used again)."""
    if last_prefix and row.serial_time < int(last_prefix[4:], 16):
        what = f"serial_time is {row.serial_time}, prefix {last_prefix} was used already"
        findings.add("audit.fold.head", what, "table head, serial_time")


def _check_frontier(row: LedgerHead, check: HeadCheck, findings: Findings) -> None:
    if not row.published and not row.frontier:
        return
    if row.published > check.tree.size:
        what = f"published is {row.published}, there are {check.tree.size} entries"
        findings.add("audit.checkpoint.rollback", what, "table head, published")
        return
    peaks = check.tree.peaks(row.published, check.leaves(row.published))
    if row.frontier != row.published.to_bytes(8, "big") + b"".join(peaks):
        what = f"the frontier is not that of the first {row.published} entries"
        findings.add("audit.fold.head", what, "table head, frontier")


def check_upper_tiles(files: LogFiles, blocks: Sequence[bytes], published: int, findings: Findings) -> int:
    """Compare every hash tile above level 0 with the roots of the blocks below; return how many there are."""
    level, hashes, size, tiles = 1, list(blocks), published // 256, 0
    while hashes and (size or level < 8):
        for index in range(-(-len(hashes) // 256)):
            expected = b"".join(hashes[256 * index : 256 * index + 256])
            due = min(max(size - 256 * index, 0), 256)
            tiles += _check_upper_tile(files, str(level), index, expected, due, findings)
        hashes = [pairs_root(b"".join(hashes[at : at + 256])) for at in range(0, len(hashes) - 255, 256)]
        level, size = level + 1, size // 256
    return tiles


def _check_upper_tile(files: LogFiles, level: str, index: int, expected: bytes, due: int, findings: Findings) -> int:
    served = tiles = 0
    for width in (*files.widths(level, index), 256):
        path = tile_path(level, index, width)
        data = files.read(path)
        if data is None:
            continue
        tiles += 1
        same = data == expected[: 32 * width] and 32 * width <= len(expected)
        if same or data.startswith(expected[: 32 * due]):
            served += width in (due, 256)
        if not same and width > due:
            findings.add("audit.tile.unexpected", f"{path} is ahead of the checkpoint, not what the ledger has", path)
        elif not same:
            served += width == due
            _name_blocks(path, level, index, data, expected[: 32 * width], findings)
    if due and not served:
        path = tile_path(level, index, due)
        findings.add("audit.tile.missing", f"{path} is missing", path)
    return tiles


def _name_blocks(path: str, level: str, index: int, data: bytes, expected: bytes, findings: Findings) -> None:
    if len(data) != len(expected):
        findings.add("audit.tile.mismatch", f"{path} has {len(data)} octets instead of {len(expected)}", path)
        return
    span = 256 ** int(level)
    for at in range(0, len(expected), 32):
        if data[at : at + 32] != expected[at : at + 32]:
            first = span * (256 * index + at // 32)
            what = f"{path} differs from the ledger in the hash over entries {first} to {first + span - 1}"
            findings.add("audit.tile.mismatch", what, f"{path}, hash {at // 32}")


def check_unexpected(files: LogFiles, size: int, findings: Findings) -> None:
    """Name every file below ``tile/`` that is no tile of a log of ``size`` entries."""
    expected = set(_tile_names(size))
    for path in files.files():
        whole = path.partition(".p/")[0]
        width = path.partition(".p/")[2]
        known = whole in expected and (
            not width or (width.isdecimal() and width == str(int(width)) and 0 < int(width) < 256)
        )
        if not known:
            findings.add("audit.tile.unexpected", f"log/{path[:200]} is not a tile of this log", f"log/{path[:200]}")


def _tile_names(size: int) -> Iterable[str]:
    for index in range(-(-size // 256)):
        yield tile_path("entries", index)
    level = 0
    while size:
        for index in range(-(-size // 256)):
            yield tile_path(str(level), index)
        level, size = level + 1, size // 256


def log_key(files: LogFiles, vkey: str | None, findings: Findings) -> LogKey:
    """Return the key that signs heads: ``vkey`` if the auditor has it from elsewhere, else the file ``log/vkey``."""
    stored = (files.read("vkey") or b"").decode("utf-8", "replace").strip()
    if vkey is None:
        return read_vkey(stored)
    key = read_vkey(vkey)
    try:
        same = read_vkey(stored) == key
    except BirthmarkError:
        same = False
    if not same:
        findings.add("audit.checkpoint.signature", "log/vkey is not the verifier key that was given", "log/vkey")
    return key
