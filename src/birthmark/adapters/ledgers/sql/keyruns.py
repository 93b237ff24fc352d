"""Uniqueness of keys without a random index: a set of the latest SPKI hashes and sorted, immutable runs of the rest.

A run is a file: magic (16), count (uint64), 65,537 bucket starts (uint32) by the first two octets of the hash, then
``count`` hashes of 32 octets in ascending order. Numbers are big endian on disk except the bucket starts, which are
little endian so that they can be mapped as they are. Runs are a cache: a missing or damaged one is rebuilt from the
``certificate`` and ``site_key`` tables. Which runs there are is written in a catalog: a table of the embedded ledger,
a file beside the runs where several machines share one database.

A crash while a run is written leaves a file that no catalog names: it is ignored and written again.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from birthmark.adapters.ledgers.sql.database import Database

__all__ = ["RECORD_SIZE", "REQUEST_SIZE", "KeyIndex", "RunCatalog", "RunEntry", "hashes_of", "request_hashes_of"]

RECORD_SIZE = 72
"""random (8) | SPKI SHA-256 (32) | TBS SHA-256 (32): one reserved certificate."""
REQUEST_SIZE = 64
"""SPKI SHA-256 (32) | request SHA-256 (32): one certificate that somebody else signs."""

_MAGIC = b"birthmark-keys/1"
_BUCKETS = 65536
_HEADER = len(_MAGIC) + 8
_STARTS = 4 * (_BUCKETS + 1)
_FLUSH_AT = 1 << 18
_NEW_KEYS = """
SELECT intent, records, CASE WHEN serial_prefix IS NULL THEN 1 ELSE 0 END FROM certificate
WHERE intent > ?1 AND (source IS NULL OR substr(source, 1, 8) <> 'preload:')
UNION ALL SELECT seq, requests, 1 FROM site_key WHERE seq > ?1 ORDER BY 1"""
_GROWTH = 4


def hashes_of(records: bytes) -> list[bytes]:
    """Return the SPKI hashes of packed records."""
    return list(struct.unpack("8x32s32x" * (len(records) // RECORD_SIZE), records))


def request_hashes_of(records: bytes) -> list[bytes]:
    """Return the SPKI hashes of packed requests."""
    return list(struct.unpack("32s32x" * (len(records) // REQUEST_SIZE), records))


class _Run:
    """One mapped run file."""

    __slots__ = ("_data", "_starts", "count", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("not a key run")
        self.count = int.from_bytes(self._data[len(_MAGIC) : _HEADER], "big")
        starts = array("I")
        starts.frombytes(self._data[_HEADER : _HEADER + _STARTS])
        if sys.byteorder == "big":
            starts.byteswap()
        if len(self._data) != _HEADER + _STARTS + 32 * self.count or starts[_BUCKETS] != self.count:
            raise ValueError("truncated key run")
        base = _HEADER + _STARTS
        self._starts = [base + 32 * start for start in starts]

    def find(self, hashes: Iterable[bytes]) -> bytes | None:
        """Return the first of ``hashes`` that is in the run."""
        data, starts = self._data, self._starts
        for spki_hash in hashes:
            bucket = spki_hash[0] << 8 | spki_hash[1]
            # A match that straddles two hashes would be a false alarm; it is told apart by its offset.
            if spki_hash in (part := data[starts[bucket] : starts[bucket + 1]]) and any(
                part[at : at + 32] == spki_hash for at in range(0, len(part), 32)
            ):
                return spki_hash
        return None

    def part(self, first: int, last: int) -> list[bytes]:
        """Return the hashes in buckets ``first .. last-1``."""
        data = self._data[self._starts[first] : self._starts[last]]
        return [data[at : at + 32] for at in range(0, len(data), 32)]


@dataclass(frozen=True, slots=True)
class RunEntry:
    """What a catalog says of one run."""

    file: str
    covered: int
    count: int
    sha256: bytes


def _write_run(directory: Path, parts: Iterable[list[bytes]], count: int) -> tuple[str, bytes]:
    """Write a run from sorted parts in bucket order, durably; return its name and the SHA-256 of the file.

    The name tells the content, and a file is never written in place: another process may have it mapped.
    """
    starts = array("I", bytes(_STARTS))
    path = directory / ".new"
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.seek(_HEADER + _STARTS)
        for part in parts:
            for spki_hash in part:
                starts[(spki_hash[0] << 8 | spki_hash[1]) + 1] += 1
            file.write(b"".join(part))
        for bucket in range(_BUCKETS):
            starts[bucket + 1] += starts[bucket]
        if sys.byteorder == "big":
            starts.byteswap()
        file.seek(0)
        file.write(_MAGIC + count.to_bytes(8, "big") + starts.tobytes())
        file.flush()
        os.fsync(file.fileno())
    digest = _file_hash(path)
    name = f"{digest.hex()[:16]}.run"
    path.replace(directory / name)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return name, digest


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class RunCatalog(Protocol):
    """Which runs there are, oldest first. All processes that share the directory of the runs share the catalog."""

    def rows(self) -> list[tuple[str, int]]:
        """Return (file, the last intent that it and those before it cover)."""
        ...

    def clear(self) -> None: ...

    def replace(self, obsolete: Sequence[str], run: RunEntry) -> None:
        """Put ``run`` at the end, in place of those that were merged into it."""
        ...


class KeyIndex:
    """All SPKI hashes that were ever reserved. One instance a connection; other processes are followed."""

    def __init__(self, database: Database, directory: Path, catalog: RunCatalog) -> None:
        self._database = database
        self._catalog = catalog
        self._directory = directory
        self._runs: list[_Run] = []
        self._names: list[str] = []
        self._recent: set[bytes] = set()
        self._known = -1
        self._is_current = False
        self._claimed: list[tuple[int, Sequence[bytes]]] = []
        self._flush_at = _FLUSH_AT

    def begin(self) -> None:
        """A transaction begins. Nobody else writes while it is open: the first claim in it looks what others wrote."""
        self._is_current = False
        self._claimed = []

    def claim(self, hashes: Sequence[bytes], seq: int) -> bytes | None:
        """Take ``hashes`` for entry ``seq`` of the open transaction.

        Return one that was reserved before or stands twice in ``hashes``; then none is taken.
        """
        if not self._is_current:
            self._follow()
            self._is_current = True
        if (known := self._find(hashes)) is not None:
            return known
        self._claimed.append((seq, hashes))
        self._add(hashes, seq)
        return None

    def _find(self, hashes: Sequence[bytes]) -> bytes | None:
        fresh = set(hashes)
        if len(fresh) != len(hashes):
            return next(key for at, key in enumerate(hashes) if key in hashes[:at])
        if not fresh.isdisjoint(self._recent):
            return next(key for key in hashes if key in self._recent)
        for run in self._runs:
            if (found := run.find(hashes)) is not None:
                return found
        return None

    def _add(self, hashes: Iterable[bytes], intent: int) -> None:
        self._recent.update(hashes)
        self._known = max(self._known, intent)

    def _follow(self) -> None:
        rows = self._catalog.rows()
        if self._known < 0 or [name for name, _ in rows] != self._names:
            self._load_runs(rows)
        for seq, records, foreign in self._database.execute(_NEW_KEYS, (self._known,)):
            self._add(request_hashes_of(records) if foreign else hashes_of(records), seq)

    def _load_runs(self, rows: list[tuple[str, int]]) -> None:
        runs = []
        for name, _ in rows:
            try:
                runs.append(_Run(self._directory / name))
            except (OSError, ValueError):
                self._drop_all_runs()
                return
        self._runs, self._names = runs, [row[0] for row in rows]
        self._known = max((row[1] for row in rows), default=0)
        self._recent = set()

    def _drop_all_runs(self) -> None:
        """Fall back to the tables: the next flush writes new runs."""
        self._catalog.clear()
        self._runs, self._names, self._recent, self._known = [], [], set(), 0

    def due(self) -> bool:
        """Tell whether enough was collected for a run."""
        return len(self._recent) >= self._flush_at

    def postpone(self) -> None:
        """A run could not be written: look at the tables again, and collect more before the next try."""
        self._flush_at = len(self._recent) + _FLUSH_AT
        self.forget(0)

    def forget(self, size: int) -> None:
        """The open transaction is rolled back to ``size`` entries: what was claimed for later ones never was."""
        while self._claimed and self._claimed[-1][0] >= size:
            self._recent.difference_update(self._claimed.pop()[1])
        self._known = min(self._known, size - 1)

    def flush(self) -> list[Path]:
        """Write the collected hashes as a run, merged with small older ones; call inside a transaction.

        Return the files that are obsolete once the transaction is durable.
        """
        self._follow()
        merged: list[_Run] = []
        total = len(self._recent)
        for older in reversed(self._runs):
            if older.count > _GROWTH * total:
                break
            merged.append(older)
            total += older.count
        keep = len(self._runs) - len(merged)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        name, digest = _write_run(self._directory, _merge(sorted(self._recent), merged), total)
        self._catalog.replace(self._names[keep:], RunEntry(name, self._known, total, digest))
        self._runs = [*self._runs[:keep], _Run(self._directory / name)]
        self._names = [*self._names[:keep], name]
        self._recent = set()
        self._flush_at = _FLUSH_AT
        return [run.path for run in merged]


def _merge(recent: list[bytes], runs: Sequence[_Run]) -> Iterable[list[bytes]]:
    """Yield sorted parts in bucket order; memory is that of one part."""
    at = 0
    step = 4096
    for first in range(0, _BUCKETS, step):
        limit = (first + step).to_bytes(3, "big") + bytes(30)
        end = at
        while end < len(recent) and b"\0" + recent[end] < limit:
            end += 1
        part = recent[at:end]
        at = end
        for run in runs:
            part += run.part(first, first + step)
        part.sort()
        yield part
