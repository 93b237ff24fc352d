"""Chunks in a file without a name: it is gone with the process, whatever ends it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from birthmark.adapters.durable import naming_os_errors
from birthmark.ports import PackedChunk

__all__ = ["FileSpool"]


class FileSpool:
    """Implements ``ports.Spool`` beside the files of ``directory``. Use as a context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with naming_os_errors(directory):
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  closed by the context
        self._chunks: list[tuple[str, int, int]] = []

    def __enter__(self) -> FileSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, chunk: PackedChunk) -> None:
        with naming_os_errors(self._directory):
            self._file.write(chunk.data)
        self._chunks.append((chunk.ca, chunk.count, len(chunk.data)))

    def __iter__(self) -> Iterator[PackedChunk]:
        with naming_os_errors(self._directory):
            self._file.flush()
        at = 0
        for ca, count, size in self._chunks:
            with naming_os_errors(self._directory):
                self._file.seek(at)
                data = self._file.read(size)
            at += size
            yield PackedChunk(ca, count, data)
        self._file.seek(at)
