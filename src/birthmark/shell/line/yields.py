"""What became of the devices of a run: one result each, and the count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from birthmark.errors import BirthmarkError, StationFault
from birthmark.workflow.line.stationpost import Outcome

__all__ = ["HeadResult", "Yield", "not_to_be_shipped", "percentile"]

_DO_NOT_SHIP = "DO NOT SHIP"


@dataclass(frozen=True, slots=True)
class HeadResult:
    """What became of one device: an outcome or an error."""

    device_serial: str
    outcome: Outcome | None
    error: BirthmarkError | None
    ms: float


@dataclass(slots=True)
class Yield:
    """The count of a run. ``codes``: error code → devices. ``worst``: the error that decides the exit code.

    ``engine_ms`` and ``device_ms``: of each device that passed, what the engine took and what it was waited for.
    """

    passed: int = 0
    already: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    worst: BirthmarkError | None = None
    seconds: float = 0.0
    engine_ms: list[float] = field(default_factory=list)
    device_ms: list[float] = field(default_factory=list)

    def add(self, result: HeadResult) -> None:
        """Count one result."""
        if (outcome := result.outcome) is not None:
            self.passed += outcome.outcome == "pass"
            self.already += outcome.outcome == "already"
            if outcome.outcome == "pass":
                self.engine_ms.append(outcome.engine_ms)
                self.device_ms.append(outcome.device_ms)
            return
        if result.error is not None:
            self.codes[result.error.code] = self.codes.get(result.error.code, 0) + 1
            if self.worst is None or result.error.exit_code > self.worst.exit_code:
                self.worst = result.error


@contextmanager
def not_to_be_shipped() -> Iterator[None]:
    """Say with every fault of the station inside what it means for the device in the fixture."""
    try:
        yield
    except StationFault as fault:
        if _DO_NOT_SHIP not in fault.hint:
            fault.hint = f"{_DO_NOT_SHIP} the device under test: its trace is not kept. {fault.hint}"
        raise


def percentile(values: list[float], share: int) -> float | None:
    """Return the value below which ``share`` of 100 lie (nearest rank), None if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else None
