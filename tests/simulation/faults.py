"""Where a machine may lose power: at every commit of a ledger, every sync and every rename of a file.

``PowerCut`` is no ``Exception``: nothing in the program catches it. Once it flew, the machine writes nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from birthmark.adapters.journal import FileJournal
from birthmark.adapters.ledgers.sqlite.store import SqliteLedger

__all__ = ["Fuse", "PowerCut", "burning", "hooked"]


class PowerCut(BaseException):
    """The power of one machine went."""

    def __init__(self, owner: object) -> None:
        super().__init__("power cut")
        self.owner = owner


class Fuse:
    """Counts the durable acts of one machine; at the ``left``-th the power goes, before it or just after it."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.left: int | None = None
        self.after = False
        self.blown = False

    def act(self, do: Callable[[], Any]) -> Any:
        """Do one durable act, unless the power goes."""
        if self.blown:
            raise PowerCut(self.owner)
        if self.left is None:
            return do()
        self.left -= 1
        if self.left > 0:
            return do()
        self.blown = True
        if self.after:
            do()
        raise PowerCut(self.owner)


_running: list[Fuse] = []
"""The machine that works now is the last; a site that asks its authority stands before it."""


@contextmanager
def burning(fuse: Fuse) -> Iterator[None]:
    """Let every durable act until the end count for one machine."""
    _running.append(fuse)
    try:
        yield
    finally:
        _running.pop()


def _act(do: Callable[[], Any]) -> Any:
    return _running[-1].act(do) if _running else do()


@contextmanager
def hooked() -> Iterator[None]:
    """Put the fuse into the ways by which the program makes things durable."""
    fsync, replace, commit = os.fsync, os.replace, SqliteLedger._commit
    defaults = FileJournal.__init__.__kwdefaults__
    sync = defaults["sync"]

    def fused_commit(ledger: SqliteLedger) -> None:
        _act(lambda: commit(ledger))

    os.fsync = lambda descriptor: _act(lambda: fsync(descriptor))  # type: ignore[assignment]
    os.replace = lambda *names, **options: _act(lambda: replace(*names, **options))  # type: ignore[assignment]
    SqliteLedger._commit = fused_commit  # type: ignore[method-assign]
    defaults["sync"] = lambda descriptor: _act(lambda: fsync(descriptor))
    try:
        yield
    finally:
        os.fsync, os.replace, SqliteLedger._commit = fsync, replace, commit  # type: ignore[method-assign]
        defaults["sync"] = sync
