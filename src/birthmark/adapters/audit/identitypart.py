"""What the second pass hands back of one range."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from birthmark.adapters.audit.findings import Findings

__all__ = ["IdentityPart"]


@dataclass(slots=True)
class IdentityPart:
    """What the second pass learned of one range. ``bulk``: intent to (first certificate's entry, positions seen)."""

    certificates: int = 0
    signatures: int = 0
    devices: int = 0
    keys: int = 0
    bulk: dict[int, tuple[int, int]] = field(default_factory=dict)
    bulk_rows: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    without_vault: list[int] = field(default_factory=list)
    attempts: int = 0
    revocations: int = 0
    site_keys: int = 0
    """Rows that table ``site_key`` must have."""
    preloaded: int = 0
    """Rows that table ``preload`` must have."""
    preload_counts: Counter[str] = field(default_factory=Counter)
    preload_chunks: Counter[str] = field(default_factory=Counter)
    """Manifest to identities and to entries."""
    preload_used: Counter[str] = field(default_factory=Counter)
    """CA to preloaded identities."""
    received: Counter[str] = field(default_factory=Counter)
    """Certificates that somebody else signed, by their source."""
    findings: Findings = field(default_factory=Findings)
