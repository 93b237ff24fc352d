"""The mirrored logs of sites: tiles and entries lead to the head that was taken in, certificates to the site's CA."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from birthmark.adapters.audit.der import certificate_spans
from birthmark.adapters.audit.entries import ISSUED
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.heads import check_unexpected, check_upper_tiles
from birthmark.adapters.audit.index import Index, Site, load_index
from birthmark.adapters.audit.issuers import Issuers, serial_tag
from birthmark.adapters.audit.logcheck import Head, Tree, open_head, pairs_root, read_vkey
from birthmark.adapters.audit.mirrors import MIRROR_MARK, mirror_files, read_bundle
from birthmark.adapters.audit.reader import LogFiles, tile_path
from birthmark.adapters.audit.spill import Spill, shard_of
from birthmark.adapters.audit.workers import Workers
from birthmark.errors import BirthmarkError

__all__ = ["MirrorPart", "check_mirrors", "pass_mirror"]

_RANGE = 8192
_NO_ENTRY = 1 << 62
_MAX_ENTRIES = 1 << 40
sha256 = hashlib.sha256


@dataclass(slots=True)
class MirrorPart:
    """What one range of a mirrored log holds. ``roots``: of its complete blocks of 256 leaves."""

    first: int
    roots: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    tiles: int = 0
    signatures: int = 0
    findings: Findings = field(default_factory=Findings)


def check_mirrors(
    root: Path, scratch: Path, shards: int, index: Index, workers: Workers, findings: Findings
) -> dict[str, int]:
    """Check the mirror of every site that reported; return counts."""
    counts = {"mirrored_entries": 0, "signatures": 0, "tiles": 0}
    for place, site in enumerate(index.sites):
        if not site.reported:
            continue
        files, own = mirror_files(root, site.site), Findings()
        if files is None:
            findings.add("audit.mirror.missing", f"there is no log of site {site.site}", f"sites/{site.site}/log")
            continue
        head = _head(files, site, own)
        if head is not None:
            tasks = [
                (root, scratch, place, at, min(at + _RANGE, head.size), shards) for at in range(0, head.size, _RANGE)
            ]
            parts = list(workers.ordered(pass_mirror, tasks))
            counts["mirrored_entries"] += head.size
            for part in parts:
                counts["signatures"] += part.signatures
                counts["tiles"] += part.tiles
                own.merge(part.findings)
            counts["tiles"] += _check_tree(files, site, head, parts, own)
        _hand_over(own, site, findings)
    return counts


def _head(files: LogFiles, site: Site, findings: Findings) -> Head | None:
    """Return the head of a mirrored log, if it can be used at all."""
    note = files.read("checkpoint")
    if note is None:
        findings.add("audit.checkpoint.missing", "there is no checkpoint", "checkpoint")
        return None
    try:
        head = open_head(note, read_vkey(site.vkey))
    except BirthmarkError as problem:
        code = "audit.checkpoint.signature" if problem.code == "audit.note.signature" else "audit.checkpoint.malformed"
        findings.add(code, problem.message, "checkpoint")
        return None
    if head.origin != site.origin:
        findings.add("audit.checkpoint.origin", f"this is the head of {head.origin}", "checkpoint")
    if head.size < site.reported:
        what = f"the checkpoint covers {head.size} entries, {site.reported} were taken in"
        findings.add("audit.checkpoint.rollback", what, "checkpoint")
    elif head.size > site.reported:
        what = f"the checkpoint covers {head.size} entries, {site.reported} were taken in: ingest again"
        findings.add("audit.mirror.ahead", what, "checkpoint")
    return head if head.size < _MAX_ENTRIES else None


def _check_tree(files: LogFiles, site: Site, head: Head, parts: Sequence[MirrorPart], findings: Findings) -> int:
    blocks = [block for part in parts for block in part.roots]
    tree = Tree(blocks, parts[-1].rest if parts else b"")
    if tree.root(head.size, tree.rest) != head.root:
        findings.add("audit.checkpoint.root", "the entries do not hash to the root of the checkpoint", "checkpoint")
    if site.reported <= head.size:
        edge = read_bundle(files, site.reported // 256) if site.reported % 256 else []
        leaves = b"".join([sha256(b"\0" + piece[2:]).digest() for piece in edge[: site.reported % 256]])
        if len(leaves) == 32 * (site.reported % 256) and tree.root(site.reported, leaves).hex() != site.root:
            what = f"the first {site.reported} entries do not hash to the root that was taken in"
            findings.add("audit.checkpoint.fork", what, "checkpoint")
    check_unexpected(files, head.size, findings)
    return check_upper_tiles(files, blocks, head.size, findings)


def _hand_over(own: Findings, site: Site, findings: Findings) -> None:
    """Hand findings on with the site's name in them."""
    place = f"sites/{site.site}/log"
    named = Findings()
    named.totals = own.totals
    named.kept = [
        replace(one, what=f"site {site.site}: {one.what}", where=f"{place}/{one.where.removeprefix('log/')}")
        for one in own.kept
    ]
    findings.merge(named)


class _MirrorPass:
    def __init__(self, index: Index, place: int, spill: Spill, part: MirrorPart) -> None:
        self.site, self.place, self.spill, self.part = index.sites[place], place, spill, part
        delegated = [authority for authority in index.authorities if authority.site == self.site.site]
        self.issuers = Issuers(delegated, {})
        raised = [item for item in index.raised if item[0] == self.site.site]
        self.known_entries = {entry for _, _, entry in raised}
        self.known_devices = {device for _, device, _ in raised if device is not None}

    def certificate(self, number: int, device: str, der: bytes) -> None:
        """Check one certificate that the site signed; what the authority has a finding of is on record already."""
        self.spill.record(
            "device",
            shard_of(device, self.spill.shards),
            (device, -1, {"type": "_site", "site": self.site.site, "number": number}, b""),
        )
        if number in self.known_entries or device in self.known_devices:
            return
        faults = self.issuers.faults(der, device, None, _NO_ENTRY)
        self.part.signatures += 1
        spans = certificate_spans(der)
        if spans is not None:
            if not spans.cert_serial.hex().startswith(self.site.site_prefix):
                faults.append(("audit.certificate.serial", f"does not begin with {self.site.site_prefix}"))
            tag = serial_tag(spans)
            buffer = self.spill.buffer("serial", tag[0] & (self.spill.shards - 1))
            buffer += tag + (MIRROR_MARK | self.place << 40 | number).to_bytes(8, "big")
        for code, text in faults:
            what = f"the certificate of device {device} {text}"
            self.part.findings.add(code, what, f"entry {number}", device)


def pass_mirror(root: Path, scratch: Path, place: int, first: int, last: int, shards: int) -> MirrorPart:
    """Check entries ``first .. last-1`` of the mirrored log of the site at ``place`` of the index."""
    index, part = load_index(scratch / "index"), MirrorPart(first)
    files = mirror_files(root, index.sites[place].site)
    if files is None:
        return part
    with Spill(scratch, shards) as spill:
        run = _MirrorPass(index, place, spill, part)
        for at in range(first, last, 256):
            block, due = at // 256, min(last - at, 256)
            pieces = read_bundle(files, block)[:due]
            pieces += [b""] * (due - len(pieces))
            leaves = b"".join([sha256(b"\0" + piece[2:]).digest() for piece in pieces])
            _check_block(files, block, pieces, leaves, part)
            if due == 256:
                part.roots.append(pairs_root(leaves))
            else:
                part.rest = leaves
            for number, piece in enumerate(pieces, at):
                issued = ISSUED.match(piece, 2)
                if issued is not None and issued[4] == b"issued":
                    run.certificate(number, issued[2].decode(), piece[issued.end() :])
    return part


def _check_block(files: LogFiles, block: int, pieces: Sequence[bytes], leaves: bytes, part: MirrorPart) -> None:
    """Compare every hash tile and entry bundle of a block, all widths there are, with its entries."""
    due = len(pieces)
    for level in ("0", "entries"):
        served = False
        for width in (*files.widths(level, block), 256):
            path = tile_path(level, block, width)
            data = files.read(path)
            if data is None:
                continue
            part.tiles += 1
            count = min(width, due)
            expected = leaves[: 32 * count] if level == "0" else b"".join(pieces[:count])
            if not data.startswith(expected) or (width == count and len(data) != len(expected)):
                part.findings.add("audit.tile.mismatch", f"{path} is not what the entries make", path)
            served = served or width >= due
        if not served:
            path = tile_path(level, block, due)
            part.findings.add("audit.tile.missing", f"{path} is missing", path)
