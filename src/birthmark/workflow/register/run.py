"""Tell a cloud of every device that is due: paced, resumable, each device told what is true at that moment.

Order of writes: the book notes that devices are asked; the cloud is told; the book notes what became of them, together
with the next that are asked; then the log. Crash anywhere: what was asked is told again, which a cloud takes as told
once, and a settlement that is not in the log yet is put there by the next run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from birthmark.errors import BirthmarkError, Refused, Unavailable
from birthmark.ports import Cloud, CountsCalls, Outcome, RegisterBook, Settlement
from birthmark.workflow.register.check import Telling, parked, sort_due
from birthmark.workflow.register.fold import BookFold
from birthmark.workflow.register.pace import Pace
from birthmark.workflow.register.wanted import WantedNow

__all__ = ["Answer", "Lanes", "RunCounts", "RunOfRegistrations", "one_lane"]

_FREE_ROUND = 1024
_NOTE_AFTER = 2000

Answer = Sequence[Outcome] | BirthmarkError | None
"""What came of one call; None: it was not made."""
Lanes = Callable[[Callable[[Sequence[Telling]], Answer], Sequence[Sequence[Telling]]], Iterable[Answer]]
"""As ``map``: work and what it is done on → the results in order, however many are done at once."""


def one_lane(work: Callable[[Sequence[Telling]], Answer], parts: Sequence[Sequence[Telling]]) -> Iterable[Answer]:
    """Do one after the other."""
    return map(work, parts)


@dataclass(slots=True)
class RunCounts:
    """What a run did. ``outcomes``: devices by what became of them. ``calls``: those that were sent; as ``calls_of``
    counts them where the cloud does not (``CountsCalls``).

    ``repeated``: devices, and ``repeated_calls``: calls for them, that an interrupted run had asked before.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    repeated: int = 0
    repeated_calls: int = 0
    back_offs: int = 0
    waited_s: float = 0.0
    stopped: bool = False


@dataclass(slots=True)
class RunOfRegistrations:
    """One run for one cloud. ``note`` puts settlements into the log. ``patience_s``: how long the cloud may give no
    answer at all. ``stop`` is asked before each call. ``release`` gives free what reading certificates held.
    ``progress``: how many devices became due, and how many were settled and parked, since it was called last.
    """

    cloud: Cloud
    book: RegisterBook
    fold: BookFold
    pace: Pace
    note: Callable[[], object]
    lanes: Lanes = one_lane
    patience_s: float = 600.0
    stop: Callable[[], bool] = lambda: False
    release: Callable[[], None] = lambda: None
    progress: Callable[[int, int, int], None] = lambda due, settled, parked: None
    counts: RunCounts = field(default_factory=RunCounts)
    _silent_since: float | None = None
    _not_noted: int = 0
    _failures: list[BirthmarkError] = field(default_factory=list)
    _answered: bool = False

    def run(self) -> RunCounts:
        """Tell until nothing is due any more. A device that the cloud refuses is parked and does not end the run.

        ``Misconfigured`` of the cloud, and ``Unavailable`` beyond the patience, end it; the next run goes on.
        """
        batch = max(self.cloud.limits.batch, 1)
        self.counts.repeated = self.book.recover()
        self.counts.repeated_calls = -(-self.counts.repeated // batch)
        self._note()
        self.fold.run()
        self.progress(self.book.counts()["due"], 0, 0)
        try:
            self._rounds(batch)
        finally:
            self.counts.waited_s = self.pace.waited_s
        return self.counts

    def _rounds(self, batch: int) -> None:
        wanted = WantedNow(self.fold.feed)
        smallest = batch * max(self.cloud.limits.lanes, 1)
        size, settled = smallest, list[Settlement]()
        try:
            while True:
                self.counts.stopped = self.stop()
                due = self.book.turn(settled, 0 if self.counts.stopped else size)
                settled = []
                if self._not_noted >= _NOTE_AFTER:
                    self._note()
                if self.counts.stopped or (not due and not self._found_more()):
                    return
                telling, refused = sort_due(self.cloud, self.book, wanted, due)
                self.release()
                before = self.counts.calls
                for settlement in self._round(telling, refused, batch):
                    settled.append(settlement)
                self._count(settled)
                # Rounds without calls are limited by the disk alone; one with calls stays small: a crash repeats it.
                size = smallest if self.counts.calls > before else min(size * 2, max(_FREE_ROUND, smallest))
        finally:
            self.book.turn(settled, 0)
            self._note()

    def _found_more(self) -> bool:
        """Nothing is due: put all into the log, then look whether it has more by now."""
        self._note()
        became = self.fold.run()
        self.progress(became, 0, 0)
        return became > 0 or self.book.counts()["due"] > 0

    def _note(self) -> None:
        self.note()
        self._not_noted = 0

    def _count(self, settled: Sequence[Settlement]) -> None:
        outcomes = Counter(item.outcome for item in settled if item.outcome is not None)
        self.counts.outcomes.update(outcomes)
        self._not_noted += outcomes.total()
        self.progress(0, outcomes.total() - outcomes["refused"], outcomes["refused"])

    def _round(self, telling: list[Telling], refused: list[Settlement], batch: int) -> Iterator[Settlement]:
        yield from refused
        alone: list[Sequence[Telling]] = []
        parts = [telling[at : at + batch] for at in range(0, len(telling), batch)]
        for part, answer in self._answers(parts):
            if isinstance(answer, Refused) and len(part) > 1:
                alone += [[one] for one in part]
            else:
                yield from self._settlements(part, answer)
        for part, answer in self._answers(alone):
            yield from self._settlements(part, answer)
        self._judge()

    def _answers(self, parts: Sequence[Sequence[Telling]]) -> Iterator[tuple[Sequence[Telling], Answer]]:
        most = [self.cloud.calls_of([one.registration for one in part]) for part in parts]
        sent = self.cloud.calls if isinstance(self.cloud, CountsCalls) else None
        calls = sum(most) if sent is None else sum(cost > 0 for cost in most)
        self.pace.take(calls)
        if self.stop():  # what it slept for is not over
            yield from ((part, None) for part in parts)
            return
        answers = list(self.lanes(self._tell, parts))
        if sent is not None and isinstance(self.cloud, CountsCalls):
            self.pace.charge(self.cloud.calls - sent - calls)
            calls = self.cloud.calls - sent
        self.counts.calls += calls
        yield from zip(parts, answers, strict=True)

    def _tell(self, part: Sequence[Telling]) -> Answer:
        try:
            return self.cloud.tell([one.registration for one in part])
        except BirthmarkError as problem:
            return problem

    def _settlements(self, part: Sequence[Telling], answer: Answer) -> Iterator[Settlement]:
        match answer:
            case None:
                yield from (one.unknown() for one in part)
            case Refused():
                self._answered = True
                yield parked(part[0].device, answer, part[0].wanted)
            case BirthmarkError():
                self._failures.append(answer)
                yield from (one.unknown() for one in part)
            case _:
                self._answered = True
                for one, outcome in zip(part, answer, strict=True):
                    if outcome.device_serial != one.device.device_serial:
                        raise ValueError(f"{self.cloud.name} answers for other devices than it was told of")
                    yield one.settled(outcome)

    def _judge(self) -> None:
        """Once a round is settled: wait as the cloud says, or give up.

        It is given up when the cloud does not let us in, or has not answered for longer than there is patience.
        """
        failures, answered, now = self._failures, self._answered, self.pace.clock()
        self._failures, self._answered = [], False
        for problem in failures:
            if not isinstance(problem, Unavailable):
                raise problem
        if answered:
            self.pace.answered()
            self._silent_since = None
        if not failures:
            return
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since > self.patience_s:
            raise failures[0]
        asked = [problem.facts.get("retry_after") for problem in failures]
        seconds = [float(value) for value in asked if isinstance(value, int | float)]
        self.counts.back_offs += 1
        self.pace.back_off(max(seconds) if seconds else None)
