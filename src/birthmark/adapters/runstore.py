"""What the agent was asked and what it answered: one SQLite file beside the station's journal."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import StationFault

__all__ = ["RunStore", "StoredRun"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, request TEXT NOT NULL, device_serial TEXT NOT NULL, attempt TEXT NOT NULL,
  created TEXT NOT NULL, decided INTEGER NOT NULL, answer TEXT
) WITHOUT ROWID, STRICT
"""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run. ``request`` and ``answer`` are JSON; ``decided``: the answer stands for ever."""

    id: str
    request: str
    device_serial: str
    attempt: str
    created: str
    decided: bool = False
    answer: str | None = None


class RunStore:
    """Threads may use it at once. Everything is durable on return; a power cut leaves a run as it was before or after.

    ``StationFault("storage.*")`` where the disk does not take it. A run is never removed: the same key gets the same
    answer for ever. About 1 KB a run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with naming_os_errors(path):
            # Made here, so that it never exists under a wider mode than ours.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        with self._naming():
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(_SCHEMA)

    def get(self, run: str) -> StoredRun | None:
        """Return a run, or None."""
        with self._lock, self._naming():
            row = self._database.execute(
                "SELECT id, request, device_serial, attempt, created, decided, answer FROM runs WHERE id = ?", (run,)
            ).fetchone()
        if row is None:
            return None
        return StoredRun(row[0], row[1], row[2], row[3], row[4], decided=bool(row[5]), answer=row[6])

    def add(self, run: StoredRun) -> None:
        """Keep a new run; it must not be known yet."""
        with self._lock, self._naming():
            self._database.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run.id, run.request, run.device_serial, run.attempt, run.created, run.decided, run.answer),
            )

    def answer(self, run: str, answer: str, *, decided: bool) -> None:
        """Keep what came out. A decided answer is never changed again."""
        with self._lock, self._naming():
            self._database.execute(
                "UPDATE runs SET answer = ?, decided = ? WHERE id = ? AND decided = 0", (answer, decided, run)
            )

    def close(self) -> None:
        """Give the file free. Closing twice is safe."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise StationFault(
                "agent.store",
                f"{self._path}: {problem}",
                hint="DO NOT SHIP the devices under test: mend the disk, start the agent again and repeat them.",
                path=str(self._path),
            ) from problem
