"""The catalog of key runs as a file beside them: every machine has its own runs of the keys in the shared database.

One line a run: file name, last intent covered, number of hashes, SHA-256 of the file, leaf hash of the log entry
``covered``. The leaf hash ties the runs to this log: another database behind the same name makes them worthless.

Power cut: the file is replaced as a whole, after the run that it names; a damaged one counts as empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from birthmark.adapters.durable import write_durably
from birthmark.adapters.ledgers.sql.keyruns import RunEntry

__all__ = ["RunFile"]

_FIELDS = 5


class RunFile:
    """Implements ``RunCatalog``. ``leaf(seq)``: hash of an entry of the log, empty if it has none."""

    def __init__(self, path: Path, leaf: Callable[[int], bytes]) -> None:
        self._path = path
        self._leaf = leaf
        self._seen: tuple[int, int, int] | None = None
        self._lines: list[list[str]] = []

    def rows(self) -> list[tuple[str, int]]:
        try:
            status = self._path.stat()
        except OSError:
            self._seen, self._lines = None, []
            return []
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._lines = self._load()
            self._seen = seen
        return [(line[0], int(line[1])) for line in self._lines]

    def _load(self) -> list[list[str]]:
        try:
            lines = [line.split(" ") for line in self._path.read_text(encoding="ascii").splitlines()]
        except (OSError, ValueError):
            return []
        if any(len(line) != _FIELDS or not line[1].isdecimal() or "/" in line[0] for line in lines):
            return []
        known = all(self._leaf(int(line[1])).hex() == line[4] for line in lines)
        return lines if known else []

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
        self._seen, self._lines = None, []

    def replace(self, obsolete: Sequence[str], run: RunEntry) -> None:
        line = [run.file, str(run.covered), str(run.count), run.sha256.hex(), self._leaf(run.covered).hex()]
        lines = [*(kept for kept in self._lines if kept[0] not in obsolete), line]
        write_durably(self._path, "".join(" ".join(kept) + "\n" for kept in lines).encode(), mode=0o600)
