"""Between the event loop and the ledger: requests wait in a queue, one thread works through them in rounds."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from birthmark.errors import Unavailable
from birthmark.workflow.line.issuebatch import Answer, Asked, IssueBatch

__all__ = ["Batcher"]

_GATHER_S, _GAP_S = 0.003, 0.001
"""A round waits for as many requests as the one before answered: so long at most, and as long as they come so fast."""


class Batcher:
    """Takes requests on the event loop and answers them when they are durable.

    ``most``: requests that one round takes; ``room``: how many may wait before new ones are turned away. Nothing is
    lost on ``close``: what was taken is answered first.
    """

    def __init__(self, batch: IssueBatch, *, most: int = 64, room: int = 1024) -> None:
        self._batch = batch
        self._most = most
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Asked] = deque()
        self._open: dict[Asked, Callable[[Answer], None]] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="ledger-writer", daemon=True)
        self._wanted = 1
        """How many waiting requests wake the thread."""
        self._answered = 0
        """How many requests the last round answered."""
        self.rounds = 0
        self.failed = False
        """Whether the last round was lost as a whole."""
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many requests are not answered yet."""
        return len(self._open)

    def submit(self, asked: Asked, tell: Callable[[Answer], None]) -> None:
        """Take a request; ``tell`` gets its answer, on the event loop. ``Unavailable("service.busy")`` if many wait."""
        if self._closing or len(self._open) >= self._room:
            raise Unavailable(
                "service.busy",
                f"{len(self._open)} requests wait already",
                hint="Send the same request again after the time in Retry-After.",
                waiting=len(self._open),
            )
        self._open[asked] = tell
        with self._wake:
            self._waiting.append(asked)
            if len(self._waiting) >= self._wanted:
                self._wake.notify()

    def close(self) -> None:
        """Answer what was taken and end the thread. Call it off the event loop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            try:
                answers = self._batch.run(taken)
                self.failed = False
            except Exception as problem:  # noqa: BLE001  everybody who waits is told; the ledger says what it kept
                self.failed = True
                answers = [Answer(asked, error=problem) for asked in self._batch.lost()]
            self.rounds += 1
            self._answered = len(answers)
            if answers:
                self._loop.call_soon_threadsafe(self._deliver, answers)

    def _take(self) -> list[Asked] | None:
        """Wait for something to do; None when all is done and nothing more comes."""
        with self._wake:
            while not self._waiting and not self._batch.is_busy:
                if self._closing:
                    return None
                self._wake.wait()
            # Stations that were just answered mostly ask for their next device at once: one round for all of them
            # costs little more than one for the first.
            self._wanted = min(self._answered, self._most)
            until = monotonic() + _GATHER_S
            while (here := len(self._waiting)) < self._wanted and not self._closing:
                self._wake.wait(_GAP_S)
                if len(self._waiting) == here or monotonic() > until:
                    break
            self._wanted = 1
            return [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]

    def _deliver(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            tell = self._open.pop(answer.asked)
            try:
                tell(answer)
            except Exception as problem:  # noqa: BLE001  one connection that cannot be told is nobody else's loss
                self._loop.call_exception_handler({"message": "an answer could not be told", "exception": problem})
