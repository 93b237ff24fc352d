"""A dialogue in lines over a port: one command, its answer until a line that ends it, in bounded time and size."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from birthmark.adapters.targets.links.budget import RetryBudget, garbled, silent
from birthmark.adapters.targets.links.port import SerialPort
from birthmark.errors import Unavailable
from birthmark.ports import Fence

__all__ = ["Answer", "Talk"]

_T = TypeVar("_T")
_MOST_OCTETS = 64 * 1024
_PAUSE_S = 0.02
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_UNPRINTABLE = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: the lines before the one that ends it, and the match of that one. Printable ASCII only."""

    lines: tuple[str, ...]
    end: re.Match[str]


class Talk:
    """Speaks over one port for one call of a target.

    ``answer_s``: how long a device may take for one answer. With a fence it waits no longer than the fence stands.
    """

    def __init__(self, port: SerialPort, budget: RetryBudget, *, answer_s: float, fence: Fence | None) -> None:
        self.port = port
        self.budget = budget
        self._answer_s = answer_s
        self._fence = fence

    @property
    def name(self) -> str:
        return self.port.path

    def hold(self) -> None:
        """Ask the fence; whatever changes the device does so at once before it."""
        if self._fence is None:
            raise RuntimeError("a device is changed without a fence")
        self._fence.hold()

    def patience(self) -> float:
        """Return how many seconds may be waited for the next answer; the fence's own error if there are none."""
        if self._fence is None:
            return self._answer_s
        if (left := self._fence.remaining()) <= 0:
            self._fence.hold()
        return min(self._answer_s, left)

    def ask(self, command: str, end: re.Pattern[str]) -> Answer:
        """Send a command (lines without the last line end), return its answer; ``Unavailable("link.silent")``."""
        return self.ask_within(command, end, self.patience())

    def ask_within(self, command: str, end: re.Pattern[str], most_s: float) -> Answer:
        """Do the same, and wait no longer than ``most_s``."""
        seconds = min(most_s, self.patience())
        self.port.drain()
        self.port.send(command.encode("ascii") + b"\r\n", seconds)
        return self.listen(end, seconds, echo=frozenset(command.splitlines()))

    def listen(self, end: re.Pattern[str], seconds: float, *, echo: frozenset[str] = frozenset()) -> Answer:
        """Wait for a line that ``end`` matches; lines that repeat the command (its echo) are left out."""
        over, rest, octets = time.monotonic() + seconds, b"", 0
        lines: list[str] = []
        while (left := over - time.monotonic()) > 0:
            came = self.port.receive(left)
            octets += len(came)
            if octets > _MOST_OCTETS:
                raise garbled(self.name, "more than 64 KiB came without an end")
            *whole, rest = (rest + came).split(b"\n")
            for raw in whole:
                line = _UNPRINTABLE.sub("", _ESCAPES.sub("", raw.decode("ascii", errors="replace"))).strip()
                if (found := end.fullmatch(line)) is not None:
                    return Answer(tuple(lines), found)
                if line and line not in echo:
                    lines.append(line)
        raise silent(self.name, seconds)

    def persist(self, attempt: Callable[[], _T], *, recover: Callable[[], None] | None = None) -> _T:
        """Repeat ``attempt`` while the link is to blame and the budget lasts: it may be done twice, or is read back."""
        while True:
            try:
                return attempt()
            except Unavailable as problem:
                if problem.code not in ("link.silent", "link.garbled"):
                    raise
                self.budget.spend(problem)
                self.patience()
                if recover is not None:
                    recover()

    def twice(self, read: Callable[[], _T]) -> _T:
        """Return what ``read`` gives twice in a row: for answers that carry no checksum. The second reading is free."""
        first, second = read(), read()
        while first != second:
            self.budget.spend(garbled(self.name, "two readings of the same thing differ"))
            first, second = second, read()
        return first

    def hush(self) -> None:
        """Read until nothing more comes, so that an answer that is late is not taken for the next one."""
        over = time.monotonic() + self.patience()
        while time.monotonic() < over and self.port.receive(_PAUSE_S):
            pass
