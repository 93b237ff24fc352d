"""The published log as plain files below one directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors, sync_file_system, sync_path, write_durably

__all__ = ["FileLogStore"]

_MANY = 32
"""Files above which one syncfs(2) is cheaper than an fsync(2) each: every fsync commits the journal of the disk."""


class FileLogStore:
    """Implements ``ports.LogStore``.

    Power cut: tiles may be torn until ``publish`` returns; the checkpoint is shown only after they are durable, and
    whoever publishes next writes everything behind the last shown checkpoint again. Partial tiles go when a shown
    checkpoint covers the full one; a reader of an older head takes the first hashes of that.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unsynced: dict[Path, None] = {}
        self._superseded: list[Path] = []

    def read(self, path: str) -> bytes | None:
        target = self._directory / path
        with naming_os_errors(target):
            try:
                return target.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, path: str, data: bytes) -> None:
        target = self._directory / path
        with naming_os_errors(target):
            try:
                target.write_bytes(data)
            except FileNotFoundError:
                # A new directory is durable only with the name that the directory above has for it.
                above = target.parent
                while not above.exists():
                    above = above.parent
                    self._unsynced[above] = None
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        self._unsynced[target] = None
        self._unsynced[target.parent] = None
        if not target.parent.name.endswith(".p"):
            self._superseded.append(target.with_name(f"{target.name}.p"))

    def publish(self, checkpoint: bytes) -> None:
        if len(self._unsynced) > _MANY:
            sync_file_system(self._directory)
        else:
            for path in self._unsynced:
                sync_path(path)
        self._unsynced.clear()
        write_durably(self._directory / "checkpoint", checkpoint, mode=0o644)
        for partial in self._superseded:
            if partial.is_dir():  # few ever were: most tiles are written whole
                # What cannot be removed does no harm.
                shutil.rmtree(partial, ignore_errors=True)
        self._superseded.clear()
