"""Third pass: keys, serial prefixes and attempt ids, one shard at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from birthmark.adapters.audit.entries import RECORD_OCTETS, parse_head
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import Index
from birthmark.adapters.audit.mirrors import MIRROR_MARK
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.settlement import settled_lines
from birthmark.adapters.audit.spill import read_records, read_shard

__all__ = ["UniquePart", "check_attempts", "check_keys", "check_prefixes", "check_serials"]

_KEY, _KEY_RECORD = 32, 42
_PREFIX_RECORD = 16
_SERIAL, _SERIAL_RECORD = 32, 40


@dataclass(slots=True)
class UniquePart:
    """Counts of one shard."""

    distinct: int = 0
    total: int = 0
    findings: Findings = field(default_factory=Findings)


def reserved_device(reader: LedgerReader, index: Index, intent: int, position: int) -> str:
    """Return the device that stands at ``position`` of a reservation, for a finding."""
    head, _, _ = (reader.entry(intent) or b"").partition(b"\n")
    document = parse_head(head) or {}
    device = document.get("device")
    if isinstance(device, str):
        return device
    if document.get("type") == "site_settled":
        lines = settled_lines((reader.entry(intent) or b"").partition(b"\n")[2]) or []
        return lines[position][0] if position < len(lines) else "unknown"
    if document.get("type") == "preloaded":
        return f"a chip of {str(document.get('vendor'))[:40]}"
    for chunk in index.chunks:
        if (chunk.order, chunk.chunk) == (document.get("order"), document.get("chunk")):
            serials = (reader.entry(chunk.seq) or b"").partition(b"\n")[2].decode("ascii", "replace").split("\n")
            if position < len(serials):
                return serials[position]
    return "unknown"


def check_keys(reader: LedgerReader, index: Index, scratch: Path, shard: int) -> UniquePart:
    """Check that no key of this shard was reserved twice (I2)."""
    data = read_shard(scratch, "key", shard)
    part = UniquePart(total=len(data) // _KEY_RECORD)
    keys = {data[at : at + _KEY] for at in range(0, len(data), _KEY_RECORD)}
    part.distinct = len(keys)
    if part.distinct == part.total:
        return part
    places: dict[bytes, list[tuple[int, int]]] = {}
    for at in range(0, len(data), _KEY_RECORD):
        intent = int.from_bytes(data[at + 32 : at + 40], "big")
        position = int.from_bytes(data[at + 40 : at + 42], "big")
        places.setdefault(data[at : at + _KEY], []).append((intent, position))
    for key, where in sorted(places.items()):
        if len(where) > 1:
            where.sort()
            devices = [reserved_device(reader, index, intent, position) for intent, position in where[:8]]
            what = f"key {key.hex()} was reserved {len(where)} times, for devices {', '.join(devices)}"
            part.findings.add("audit.key.double", what, f"entry {where[1][0]}", devices[-1])
    return part


def check_prefixes(reader: LedgerReader, index: Index, scratch: Path, shard: int) -> UniquePart:
    """Check that no certificate serial was reserved twice (I1): only equal prefixes need a look at the rest."""
    data = read_shard(scratch, "prefix", shard)
    part = UniquePart(total=len(data) // _PREFIX_RECORD)
    intents: dict[bytes, list[int]] = {}
    for at in range(0, len(data), _PREFIX_RECORD):
        intents.setdefault(data[at : at + 8], []).append(int.from_bytes(data[at + 8 : at + 16], "big"))
    part.distinct = len(intents)
    for prefix, shared in sorted(intents.items()):
        if len(shared) == 1:
            continue
        seen: dict[bytes, tuple[int, int]] = {}
        for intent in sorted(shared):
            records = (reader.entry(intent) or b"").partition(b"\n")[2]
            for position, at in enumerate(range(0, len(records), RECORD_OCTETS)):
                random = records[at : at + 8]
                if random in seen:
                    devices = [reserved_device(reader, index, *place) for place in (seen[random], (intent, position))]
                    what = f"certificate serial {(prefix + random).hex()} was reserved for {' and '.join(devices)}"
                    part.findings.add("audit.serial.double", what, f"entry {intent}", devices[-1])
                seen[random] = (intent, position)
        what = f"serial prefix {prefix.hex()} was used for entries {', '.join(map(str, sorted(shared)[:8]))}"
        part.findings.add("audit.serial.double", what, f"entry {max(shared)}")
    return part


def check_serials(index: Index, scratch: Path, shard: int) -> UniquePart:
    """Check that no certificate that somebody else signed has issuer and serial of another (I1)."""
    data = read_shard(scratch, "serial", shard)
    part = UniquePart(total=len(data) // _SERIAL_RECORD)
    first: dict[bytes, int] = {}
    for at in range(0, len(data), _SERIAL_RECORD):
        tag = data[at : at + _SERIAL]
        seq = int.from_bytes(data[at + _SERIAL : at + _SERIAL_RECORD], "big")
        if tag in first:
            low, high = (_place(number, index) for number in sorted((first[tag], seq)))
            what = f"the certificates in {low} and {high} have one issuer and one serial"
            part.findings.add("audit.serial.double", what, high)
        first.setdefault(tag, seq)
    part.distinct = len(first)
    return part


def _place(number: int, index: Index) -> str:
    if not number & MIRROR_MARK:
        return f"entry {number}"
    site = index.sites[(number & ~MIRROR_MARK) >> 40].site
    return f"entry {number & (1 << 40) - 1} of site {site}"


def check_attempts(reader: LedgerReader, scratch: Path, shard: int) -> UniquePart:
    """Check that no attempt id of this shard was used twice (I10), and table ``attempt``."""
    part = UniquePart()
    first: dict[str, tuple[Any, ...]] = {}
    records = sorted(read_records(scratch, "attempt", shard), key=lambda record: int(record[3]))
    for attempt, device, kind, seq in records:
        part.total += 1
        if attempt in first:
            what = f"attempt {attempt} was used for device {first[attempt][0]} and again for device {device}"
            part.findings.add("audit.attempt.double", what, f"entry {seq}", device)
        else:
            first[attempt] = (device, kind, seq)
    part.distinct = len(first)
    names = msgspec.json.encode(list(first)).decode()
    query = "SELECT attempt, device_serial, kind, seq FROM attempt WHERE attempt IN (SELECT value FROM json_each(?))"
    rows = {row[0]: row[1:] for row in reader.all(query, names)} if first else {}
    for attempt, expected in first.items():
        if rows.get(attempt) != expected:
            what = f"attempt {attempt} stands as {rows.get(attempt)!a}, the log says {expected!a}"
            part.findings.add("audit.fold.attempt", what, f"table attempt, {attempt}", str(expected[0]))
    return part
