"""Group commit: the transactions of many threads become parts of one, so that one fsync serves them all.

Threads are served in the order they came. Whoever ends its part while another waits hands its turn on; the last one
commits, and all of them return when that commit is durable. A thread that is alone commits at once, as without this.

Power cut before the commit: none of the group happened, and nobody was told that it did. A commit that fails is told
to everybody in the group.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from birthmark.model.records import LogHead
from birthmark.ports import Ledger, Transaction

__all__ = ["GroupedLedger"]


@dataclass(eq=False, slots=True)
class _Group:
    """Members of one commit. ``done`` is set when it is durable or has failed."""

    opened: AbstractContextManager[Transaction]
    tx: Transaction
    members: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None


class GroupedLedger:
    """Implements ``ports.Ledger`` over another one. ``most``: how many transactions share a commit at the most.

    The body of a transaction must not read the tables for what others in its group may have changed: they see what is
    committed. What it appends is checked against the truth all the same.
    """

    def __init__(self, ledger: Ledger, *, most: int = 64) -> None:
        self._ledger = ledger
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._group: _Group | None = None
        self.commits = 0

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        self._take_turn()
        group: _Group | None = None
        try:
            group = self._group = self._group or self._open()
            group.members += 1
            with group.tx.part():
                yield group.tx
        except BaseException:
            self._leave(group)
            raise
        self._leave(group)
        group.done.wait()
        if group.failure is not None:
            raise group.failure

    def _take_turn(self) -> None:
        turn = threading.Event()
        with self._lock:
            self._waiting.append(turn)
            if len(self._waiting) == 1:
                turn.set()
        turn.wait()

    def _open(self) -> _Group:
        opened = self._ledger.transaction()
        return _Group(opened, opened.__enter__())

    def _leave(self, group: _Group | None) -> None:
        """End the turn: hand it on within the group, or commit and hand it on after."""
        with self._lock:
            self._waiting.popleft()
            goes_on = group is not None and bool(self._waiting) and group.members < self._most
            if goes_on:
                self._waiting[0].set()
                return
            # Nobody may join while the commit runs: this place in the queue stays taken.
            self._waiting.appendleft(threading.Event())
        if group is not None:
            self._group = None
            self._commit(group)
        with self._lock:
            self._waiting.popleft()
            if self._waiting:
                self._waiting[0].set()

    def _commit(self, group: _Group) -> None:
        try:
            group.opened.__exit__(None, None, None)
            self.commits += 1
        except BaseException as failure:  # noqa: BLE001  every member raises it in its own thread
            group.failure = failure
        finally:
            group.done.set()

    def entries(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        return self._ledger.entries(first, count)

    def head(self) -> LogHead:
        return self._ledger.head()

    def close(self) -> None:
        self._ledger.close()
