"""The published log as plain files below one directory."""

from __future__ import annotations

import os
from pathlib import Path

from birthmark.adapters.durable import naming_os_errors, write_durably

__all__ = ["FileLogStore"]


class FileLogStore:
    """Implements ``ports.LogStore``.

    Power cut: tiles may be torn until ``publish`` returns; the checkpoint is shown only after they are durable, and
    whoever publishes next writes everything behind the last shown checkpoint again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unsynced: dict[Path, None] = {}

    def read(self, path: str) -> bytes | None:
        try:
            return (self._directory / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, data: bytes) -> None:
        target = self._directory / path
        with naming_os_errors(target):
            try:
                target.write_bytes(data)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        self._unsynced[target] = None
        self._unsynced[target.parent] = None

    def publish(self, checkpoint: bytes) -> None:
        for path in self._unsynced:
            with naming_os_errors(path):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._unsynced.clear()
        write_durably(self._directory / "checkpoint", checkpoint, mode=0o644)
