"""What came home from sites: the lines of ``site_settled`` events, and table ``site_key``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.identitypart import IdentityPart
from birthmark.adapters.audit.index import Assignment
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.spill import Spill, shard_of

__all__ = ["check_settled", "settled_lines"]

_STATES = "ordered|reserved|issued|pooled|drawn|installed|verified|failed|scrapped"
_LINE = re.compile(rf"([^ \n]+) ({_STATES}) (0|[1-9][0-9]{{0,17}}) (-|[0-9a-f]{{64}})", re.ASCII)

Line = tuple[str, str, int, bytes | None]
"""Device serial, state, number of the site's entry, SPKI hash."""


def settled_lines(attachment: bytes) -> list[Line] | None:
    """Return the lines of a ``site_settled`` entry, None if one is malformed."""
    if not attachment:
        return []
    found: list[Line] = []
    for line in attachment.decode("ascii", "replace").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        key = None if match[4] == "-" else bytes.fromhex(match[4])
        found.append((match[1], match[2], int(match[3]), key))
    return found


def check_settled(
    reader: LedgerReader,
    spill: Spill,
    seq: int,
    document: Document,
    attachment: bytes,
    assigned: Mapping[str, Assignment],
    part: IdentityPart,
) -> None:
    """Hand each device of a ``site_settled`` entry to its shard; take in the keys of a site that signs for itself."""
    lines = settled_lines(attachment)
    where = f"entry {seq}"
    if lines is None or len(lines) != document["count"]:
        part.findings.add("audit.entry.unlawful", f"entry {seq} does not list {document['count']} devices", where)
        return
    site, order = document["site"], document["order"]
    assignment = assigned.get(order)
    own_keys = assignment is not None and assignment.mode == "factory_ca"
    packed = b""
    for position, (device, state, number, key) in enumerate(lines):
        if number >= document["upto"]:
            what = f"device {device}: entry {seq} settles entry {number} of site {site}, which is not before"
            part.findings.add("audit.entry.unlawful", f"{what} {document['upto']}", where, device)
        members = {
            "type": "settled", "site": site, "order": order, "state": state, "number": number,
            "key": b"" if key is None else key, "own_keys": own_keys,
        }  # fmt: skip
        spill.record("device", shard_of(device, spill.shards), (device, seq, members, b""))
        if key is not None and own_keys:
            buffer = spill.buffer("key", key[0] & (spill.shards - 1))
            buffer += key + seq.to_bytes(8, "big") + position.to_bytes(2, "big")
            packed += key + bytes(32)
    _check_site_key(reader, seq, packed, part)


def _check_site_key(reader: LedgerReader, seq: int, packed: bytes, part: IdentityPart) -> None:
    part.keys += len(packed) // 64
    part.site_keys += bool(packed)
    rows = reader.all("SELECT requests FROM site_key WHERE seq = ?", seq)
    if rows != ([(packed,)] if packed else []):
        what = f"the row of the keys that entry {seq} took in from a site differs from the log"
        part.findings.add("audit.fold.site_key", what, f"table site_key, {seq}")
