"""What a witness remembers: the last head it cosigned of each log, one file each, written before the answer."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from birthmark.adapters.durable import create_durably, naming_os_errors, write_durably
from birthmark.errors import Tampered
from birthmark.tlog.checkpoint import Checkpoint, parse
from birthmark.tlog.merkle import EMPTY_ROOT

__all__ = ["FileHeads"]


class FileHeads:
    """Implements ``workflow.witness.Heads`` in a directory.

    A log is known from ``begin`` on. A file that is gone is ``Tampered("witness.head.missing")``: a witness that has
    forgotten would cosign a rollback. Power cut: the old head or the new one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def begin(self, origin: str) -> None:
        """Remember that nothing of a log was seen yet; what is remembered already stays."""
        with suppress(FileExistsError):
            create_durably(self._path(origin), Checkpoint(origin, 0, EMPTY_ROOT).body().encode(), mode=0o600)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        path = self._directory / "lock"
        with naming_os_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def latest(self, origin: str) -> Checkpoint:
        try:
            with naming_os_errors(self._path(origin), passing=(FileNotFoundError,)):
                text = self._path(origin).read_bytes().decode(errors="replace")
        except FileNotFoundError:
            raise Tampered(
                "witness.head.missing",
                f"this witness has forgotten what it saw of {origin}",
                hint="Retire this witness: make a new one with another key, and name that one in the policies.",
                origin=origin,
            ) from None
        body, blank, _ = text.partition("\n\n")
        head = parse(body + "\n" if blank else text)
        if head.origin != origin:
            raise Tampered(
                "witness.head.other",
                f"in place of the head of {origin} stands one of {head.origin}",
                hint="Find out who changed the files of this witness, and retire it.",
                origin=origin,
            )
        return head

    def record(self, origin: str, note: bytes) -> None:
        write_durably(self._path(origin), note, mode=0o600)

    def _path(self, origin: str) -> Path:
        return self._directory / f"{hashlib.sha256(origin.encode()).hexdigest()}.head"
