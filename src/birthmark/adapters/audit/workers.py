"""Worker processes: started fresh (no inherited locks), watched, and done without for small work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from birthmark.errors import StationFault

__all__ = ["Workers"]

Result = TypeVar("Result")


class Workers:
    """``processes`` workers, or this process alone when that is 1. Use as a context."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.processes > 1:
            self._pool = ProcessPoolExecutor(self.processes, mp_context=get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def each(self, function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield the result of every task, in any order."""
        if self._pool is None:
            for task in tasks:
                yield function(*task)
            return
        futures: list[Future[Result]] = [self._pool.submit(function, *task) for task in tasks]
        for future in as_completed(futures):
            yield self._result(future)
            futures.remove(future)

    def ordered(self, function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
        """Yield the result of every task, in the order of the tasks."""
        if self._pool is None:
            for task in tasks:
                yield function(*task)
            return
        futures = [self._pool.submit(function, *task) for task in tasks]
        futures.reverse()
        while futures:
            yield self._result(futures.pop())

    @staticmethod
    def _result(future: Future[Result]) -> Result:
        try:
            return future.result()
        except BrokenProcessPool as problem:
            raise StationFault(
                "audit.worker.died",
                "a worker of the audit was killed",
                hint="Look for a lack of memory; run again with fewer processes.",
            ) from problem
