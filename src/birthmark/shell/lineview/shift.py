"""What one shift has done so far: the count, the yield, the rate, the last units."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from birthmark.errors import BirthmarkError, Misconfigured, StationFault, Tampered, Unavailable
from birthmark.workflow.line.stationpost import Outcome

__all__ = ["Shift", "Unit", "verdict_of"]

_KEPT = 8
_WORDS: dict[type[BirthmarkError], str] = {
    Unavailable: "AGAIN",
    StationFault: "MEND",
    Misconfigured: "MEND",
    Tampered: "STOP",
}
_SOONEST_S = 60.0
_WINDOW_S = 900.0
"""The rate is that of the last quarter of an hour: what the place does now, lunch left out."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit that was in the fixture. ``told``: the reason and what to do; ``code`` is None where it passed."""

    device_serial: str
    word: str
    told: tuple[str, str]
    code: str | None
    seconds: float


def verdict_of(device_serial: str, seconds: float, outcome: Outcome | None, error: BirthmarkError | None) -> Unit:
    """Return what is shown of a unit.

    PASS; FAIL: this device; AGAIN: nothing was decided, the same scan goes on; MEND: the place, not the device; STOP: a
    proof does not match, nobody goes on before it is understood.
    """
    if error is not None:
        word = _WORDS.get(type(error), "FAIL")
        return Unit(device_serial, word, (error.message, error.hint), error.code, seconds)
    if outcome is None:
        raise ValueError("an outcome or an error")
    how = "the digest of its key fits" if outcome.evidence == "digest" else "the key in it signed our challenge"
    again = "it had its identity already; " if outcome.outcome == "already" else ""
    return Unit(device_serial, "PASS", (f"{again}{how}", "Take it out; scan the next one."), None, seconds)


class Shift:
    """Counts units. ``monotonic``: seconds, for rates only. A unit that was tried again counts once, as it ended."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._ends: deque[float] = deque()
        self._last_word: dict[str, str] = {}
        self.codes: Counter[str] = Counter()
        self.units: deque[Unit] = deque(maxlen=_KEPT)

    def add(self, unit: Unit) -> None:
        """Count one unit."""
        self.units.appendleft(unit)
        self._last_word[unit.device_serial] = unit.word
        if unit.code is not None:
            self.codes[unit.code] += 1
        if unit.word == "PASS":
            self._ends.append(self._monotonic())

    @property
    def passed(self) -> int:
        return sum(word == "PASS" for word in self._last_word.values())

    @property
    def failed(self) -> int:
        """Units that did not pass in the end; those that can be tried again are not among them."""
        return sum(word in ("FAIL", "STOP") for word in self._last_word.values())

    @property
    def share(self) -> float | None:
        """The yield, 0 to 1; None before the first unit."""
        done = self.passed + self.failed
        return self.passed / done if done else None

    def rate(self) -> float | None:
        """Units that passed, an hour, over the last quarter of an hour; None in the first minute."""
        now = self._monotonic()
        while self._ends and now - self._ends[0] > _WINDOW_S:
            self._ends.popleft()
        window = min(_WINDOW_S, now - self._began)
        return 3600 * len(self._ends) / window if window >= _SOONEST_S else None

    def elapsed_s(self) -> float:
        """How long this shift has lasted."""
        return self._monotonic() - self._began
