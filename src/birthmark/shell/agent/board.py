"""The heads as they stand now, the yield and the rate: what the page shows. Kept in memory, counted from the start."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from birthmark.shell.agent.messages import HeadShown, HeadsShown, RunShown

__all__ = ["Board"]

_WINDOW = timedelta(hours=1)
_AT_LEAST = timedelta(minutes=1)
"""A rate over less time than this says nothing."""


class Board:
    """Threads may write at once. ``version`` is another number after every change."""

    def __init__(self, station: str, heads: Sequence[str], *, clock: Callable[[], datetime]) -> None:
        self._station = station
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._heads = {name: HeadShown(head=name, state="empty", since=_text(self._began)) for name in heads}
        self._ended: deque[datetime] = deque()
        self._passed = self._failed = 0
        self.version = 0

    def show(self, *, identities_left: int | None, stopped: str | None) -> HeadsShown:
        """Return everything that the page shows."""
        now = self._clock()
        with self._lock:
            while self._ended and self._ended[0] < now - _WINDOW:
                self._ended.popleft()
            over = max(_AT_LEAST, min(_WINDOW, now - self._began))
            return HeadsShown(
                station=self._station,
                began=_text(self._began),
                heads=tuple(self._heads.values()),
                passed=self._passed,
                failed=self._failed,
                rate=round(len(self._ended) * 3600 / over.total_seconds(), 1),
                identities_left=identities_left,
                stopped=stopped,
            )

    def begin(self, head: str, device_serial: str) -> None:
        """A device is under way at this head."""
        self._put(HeadShown(head=head, state="running", since=self._now(), device_serial=device_serial))

    def step(self, head: str, step: str) -> None:
        """The engine has begun a step at this head."""
        with self._lock:
            known = self._heads[head]
            if known.state == "running":
                self._heads[head] = msgspec.structs.replace(known, step=step)
                self.version += 1

    def end(self, run: RunShown, ms: float) -> None:
        """A run came to its end."""
        state = "undecided" if run.state == "running" else run.state
        shown = HeadShown(
            head=run.head, state=state, since=self._now(), device_serial=run.device_serial, ms=ms, error=run.error
        )
        if state != "undecided":
            with self._lock:
                self._passed += state == "passed"
                self._failed += state == "failed"
                self._ended.append(self._clock())
        self._put(shown)

    def _put(self, shown: HeadShown) -> None:
        with self._lock:
            self._heads[shown.head] = shown
            self.version += 1

    def _now(self) -> str:
        return _text(self._clock())


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
