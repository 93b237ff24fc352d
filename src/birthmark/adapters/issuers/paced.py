"""Asks a signing service at a steady pace from several threads, and asks again what was not decided."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from birthmark.errors import BirthmarkError, Unavailable
from birthmark.ports import SigningRequest, SigningService

__all__ = ["PacedQueue"]

_TRIES = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0

_Answer = bytes | BirthmarkError


class PacedQueue:
    """Implements ``ports.SigningQueue``. ``rate``: most requests a second, repeats counted; ``outstanding``: at once.

    What a service did not decide is sent again, with longer and longer pauses or when the service said; a service that
    wants to be left alone for longer than half a minute is, and the error is the answer.
    """

    def __init__(
        self,
        service: SigningService,
        *,
        rate: float,
        outstanding: int,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._service = service
        self._interval = 1 / rate
        self._outstanding = outstanding
        self._monotonic = monotonic
        self._sleep = sleep
        self._next = monotonic()
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def answers(self, requests: Iterable[SigningRequest]) -> Iterator[tuple[SigningRequest, _Answer]]:
        waiting: dict[Future[_Answer], SigningRequest] = {}
        source = iter(requests)
        self._stopping.clear()
        with ThreadPoolExecutor(self._outstanding, thread_name_prefix="signing") as pool:
            try:
                more = True
                while more or waiting:
                    while more and len(waiting) < self._outstanding:
                        request = next(source, None)
                        more = request is not None
                        if request is not None:
                            waiting[pool.submit(self._ask, request)] = request
                    for done in wait(waiting, return_when=FIRST_COMPLETED).done if waiting else ():
                        yield waiting.pop(done), done.result()
            finally:
                self._stopping.set()

    def _ask(self, request: SigningRequest) -> _Answer:
        pause = _FIRST_PAUSE_S
        for attempt in range(1, _TRIES + 1):
            self._take_turn()
            try:
                return self._service.sign(request)
            except Unavailable as problem:
                after = problem.facts.get("retry_after")
                pause = float(after) if isinstance(after, int | float) else pause
                if attempt == _TRIES or pause > _LONGEST_PAUSE_S or self._stopping.is_set():
                    return problem
            except BirthmarkError as problem:
                return problem
            self._sleep(pause)
            pause *= 2
        raise AssertionError("the last try returns")

    def _take_turn(self) -> None:
        """Wait for this request's place in the row: one every ``interval``, none saved up while nobody asked."""
        with self._lock:
            now = self._monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval
        if turn > now:
            self._sleep(turn - now)
