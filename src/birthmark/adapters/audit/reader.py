"""Read-only access to the ledger file and to the files of the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from birthmark.adapters.audit.entries import split_packed
from birthmark.errors import Misconfigured, Tampered

__all__ = ["LedgerReader", "LogFiles", "tile_path"]


class LedgerReader:
    """One read-only connection. Damage of the file is ``Tampered("audit.ledger.unreadable")``."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise Misconfigured(
                "audit.workspace.missing",
                f"there is no ledger at {path}",
                hint="Name a workspace with ledger/ledger.db; `birthmark ledger export` copies a shared ledger there.",
                path=str(path),
            )
        self.path = path
        self._row: tuple[int, list[bytes] | None] = (-1, None)
        self._row_count = 0
        self._stamp = self._files()
        # Without a WAL the file is whole and closed: read so, it is left without a trace, even on read-only media.
        self._database = self._open("mode=ro" if self._stamp[2] else "mode=ro&immutable=1")

    def _files(self) -> tuple[int, int, int]:
        """Return change time and size of the database file, and the size of its WAL."""
        wal = self.path.with_name(self.path.name + "-wal")
        try:
            state = self.path.stat()
            return state.st_mtime_ns, state.st_size, wal.stat().st_size if wal.exists() else 0
        except OSError as problem:
            raise self._damaged(str(problem.strerror)) from problem

    def was_written(self) -> bool:
        """Tell whether somebody wrote into the database since it was opened here."""
        return self._files() != self._stamp

    def _open(self, options: str) -> sqlite3.Connection:
        quoted = str(self.path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        return sqlite3.connect(f"file:{quoted}?{options}", uri=True, isolation_level=None, timeout=30.0)

    def all(self, query: str, *values: object) -> list[Any]:
        """Return all rows of a query."""
        return list(self.each(query, *values))

    def each(self, query: str, *values: object) -> Iterator[Any]:
        """Yield the rows of a query."""
        try:
            yield from self._database.execute(query, values)
        except (sqlite3.Error, OverflowError) as problem:
            raise self._damaged(str(problem)) from problem

    def _damaged(self, reason: str) -> Tampered:
        return Tampered(
            "audit.ledger.unreadable",
            f"the ledger cannot be read: {reason}",
            hint="Restore the ledger from a copy; the log tiles tell what it must contain.",
            path=str(self.path),
        )

    def rows(self, first: int, last: int) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Yield the rows of table ``entry`` that hold entries ``first .. last-1``: first, count, body, leaf hashes."""
        query = (
            "SELECT first, count, body, leaf_hashes FROM entry WHERE first < ?2"
            " AND first >= coalesce((SELECT max(first) FROM entry WHERE first <= ?1), 0) ORDER BY first"
        )
        for row in self.each(query, first, last):
            if not _is_row(row):
                raise self._damaged("a row of table entry has other types than the schema says")
            yield row

    def entry(self, seq: int) -> bytes | None:
        """Return one entry, None if the ledger does not have it. The last row is kept."""
        start, pieces = self._row
        if not start <= seq < start + self._row_count or start < 0:
            query = "SELECT first, count, body, leaf_hashes FROM entry WHERE first <= ? ORDER BY first DESC LIMIT 1"
            found = self.all(query, seq)
            if not found or not _is_row(found[0]):
                return None
            start, self._row_count, body, _ = found[0]
            pieces = split_packed(body, self._row_count)
            self._row = (start, pieces)
        if pieces is None or seq - start >= len(pieces):
            return None
        return pieces[seq - start][2:]

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


def _is_row(row: Sequence[object]) -> bool:
    return (
        type(row[0]) is int
        and type(row[1]) is int
        and type(row[2]) is bytes
        and type(row[3]) is bytes
        and 0 < row[1] <= len(row[2])
    )


def tile_path(level: str, index: int, width: int = 256) -> str:
    """Return the path of a tile below the log directory (c2sp.org/tlog-tiles): ``level`` is a number or ``entries``."""
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*("x" + group for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{name}" + ("" if width == 256 else f".p/{width}")


class LogFiles:
    """The directory of the published log."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes | None:
        """Return the octets of a file below the log directory, None if there is none."""
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            raise Misconfigured(
                "audit.log.unreadable",
                f"{path} cannot be read: {problem.strerror}",
                hint="Let the auditor read every file of the log.",
                path=path,
            ) from problem

    def widths(self, level: str, index: int) -> list[int]:
        """Return the widths of the partial tiles that lie beside (or instead of) a tile, ascending."""
        directory = self.root / (tile_path(level, index) + ".p")
        try:
            names = [child.name for child in directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)) and int(name) < 256)

    def files(self) -> Iterator[str]:
        """Yield the path of every file below ``tile/``."""
        base = self.root / "tile"
        for path in base.rglob("*"):
            if not path.is_dir():
                yield path.relative_to(self.root).as_posix()
