"""Third pass: one shard of keys, serial prefixes, attempts and devices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from birthmark.adapters.audit.devicepass import check_devices
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import load_index
from birthmark.adapters.audit.preloads import check_bound
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.uniqueness import check_attempts, check_keys, check_prefixes, check_serials
from birthmark.errors import Tampered

__all__ = ["ShardPart", "pass_shard"]


@dataclass(slots=True)
class ShardPart:
    """Counts of one shard; ``states``, ``closed``, ``taken`` are those of the devices that have events of their own."""

    counts: dict[str, int] = field(default_factory=dict)
    states: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    taken: Counter[tuple[str, int]] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)


def pass_shard(ledger: Path, scratch: Path, shard: int) -> ShardPart:
    """Check one shard; the index of the settled log lies in the scratch directory."""
    part, index, reader = ShardPart(), load_index(scratch / "settled"), LedgerReader(ledger)
    try:
        keys = check_keys(reader, index, scratch, shard)
        prefixes = check_prefixes(reader, index, scratch, shard)
        serials = check_serials(index, scratch, shard)
        attempts = check_attempts(reader, scratch, shard)
        check_bound(reader, scratch, shard, part.findings)
        devices = check_devices(reader, index, scratch, shard)
        for found in (keys.findings, prefixes.findings, serials.findings, attempts.findings, devices.findings):
            part.findings.merge(found)
        part.states, part.closed, part.taken = devices.states, devices.closed, devices.taken
        part.counts = {
            "distinct_keys": keys.distinct,
            "distinct_prefixes": prefixes.distinct,
            "distinct_attempts": attempts.distinct,
            "touched_devices": devices.touched,
            "receipts": devices.receipts,
            "erased_keys": devices.erased,
            "settled": devices.settled,
        }
    except Tampered as problem:
        part.findings.add(
            "audit.ledger.unreadable", problem.message, f"tables device, attempt or certificate, shard {shard}"
        )
    finally:
        reader.close()
    return part
