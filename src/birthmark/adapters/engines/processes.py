"""The default engine: worker processes on this machine, started fresh (spawn), fed through pipes.

A software CA key is opened by every worker; a token is opened by every worker with a session of its own. Secrets go
to the workers through their pipes, never through arguments or the environment.
"""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from birthmark.adapters.engines.failure import Failure, failure_of
from birthmark.adapters.engines.start import BulkStart, ChunkWorker, WorkerStart
from birthmark.errors import Misconfigured, StationFault
from birthmark.ports import MadeChunk, MakeTask, SignedChunk, SignTask

__all__ = ["ProcessEngine"]

_PIPE_OCTETS = 1 << 20
_GATHER, _GATHER_S = 4, 0.02
"""Results a worker that are gathered for one commit, and how long to wait for the next."""
_LARGEST_TASK = 40_000
"""Octets of a chunk to make with the longest device serials, pickled."""


@dataclass(eq=False, slots=True)
class _Worker:
    """A process and its two pipes. ``sent``: chunks that lie in its pipe; ``waiting``: those that do not fit."""

    process: BaseProcess
    tasks: Connection
    results: Connection
    room: int
    load: int = 0
    sent: int = 0
    waiting: deque[MakeTask] = field(default_factory=deque)

    def send(self, task: MakeTask | SignTask | dict[str, bytes]) -> None:
        try:
            self.tasks.send(task)
        except OSError as problem:
            raise _died() from problem

    def receive(self) -> MadeChunk | SignedChunk:
        try:
            message = self.results.recv()
        except (EOFError, OSError) as problem:
            raise _died() from problem
        if isinstance(message, Failure):
            raise message.error()
        result: MadeChunk | SignedChunk = message
        return result

    def make(self, task: MakeTask) -> None:
        """Send the task, or keep it back: a full pipe would block us while the worker blocks on its results."""
        if self.sent < self.room:
            self.sent += 1
            self.send(task)
        else:
            self.waiting.append(task)

    def made(self) -> None:
        """Note that a chunk was made, which leaves room for another."""
        self.sent -= 1
        if self.waiting:
            self.make(self.waiting.popleft())


class ProcessEngine:
    """Implements ``ports.Engine``. A chunk stays with the worker that made it."""

    def __init__(self, start: WorkerStart, processes: int) -> None:
        self._workers: list[_Worker] = []
        self._by_results: dict[object, _Worker] = {}
        self._owner: dict[int, _Worker] = {}
        try:
            self._start(start, processes)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, start: BulkStart, *, workers: int, address: str | None) -> ProcessEngine:
        """Start ``workers`` processes on this machine."""
        if address is not None:
            raise Misconfigured(
                "engine.address",
                "the engine of this machine has no address",
                hint="Leave --address out, or use --engine ray.",
            )
        return cls(start.worker, workers)

    def _start(self, start: WorkerStart, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        for _ in range(processes):
            their_tasks, tasks = context.Pipe(duplex=False)
            results, their_results = context.Pipe(duplex=False)
            room = min(_widen(tasks), _widen(results)) // _LARGEST_TASK
            process = context.Process(
                target=_serve, args=(their_tasks, their_results, start.build, start.arguments), daemon=True
            )
            process.start()
            their_tasks.close()
            their_results.close()
            worker = _Worker(process, tasks, results, max(1, room))
            self._workers.append(worker)
            self._by_results[results] = worker
            worker.send(start.secrets)
        for worker in self._workers:
            worker.receive()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.process.pid or 0 for worker in self._workers]

    def make(self, task: MakeTask) -> None:
        worker = min(self._workers, key=lambda candidate: candidate.load)
        self._owner[task.task] = worker
        worker.load += 1
        worker.make(task)

    def sign(self, task: SignTask) -> None:
        worker = self._owner.pop(task.task)
        worker.load += 1
        worker.send(task)

    def results(self) -> Sequence[MadeChunk | SignedChunk]:
        found = self._received(None)
        # The caller makes one durable commit of what it gets: while there is work left, gather a little more.
        while len(found) < _GATHER * len(self._workers) and any(worker.load for worker in self._workers):
            more = self._received(_GATHER_S)
            if not more:
                break
            found += more
        return found

    def _received(self, timeout: float | None) -> list[MadeChunk | SignedChunk]:
        found: list[MadeChunk | SignedChunk] = []
        for ready in wait([worker.results for worker in self._workers], timeout):
            worker = self._by_results[ready]
            result = worker.receive()
            found.append(result)
            worker.load -= 1
            if isinstance(result, MadeChunk):
                worker.made()
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.tasks.close()
            worker.results.close()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _widen(pipe: Connection) -> int:
    """Give a pipe a larger buffer, so that a worker goes on while the ledger syncs; return its octets (pipe(7))."""
    with suppress(OSError):
        return fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_OCTETS)
    return int(fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ))


def _died() -> StationFault:
    return StationFault(
        "engine.worker.died",
        "a key-making process ended unexpectedly",
        hint="Run `birthmark order make` again: nothing that was on record is lost. Check memory and the CA token.",
    )


def _serve(
    tasks: Connection, results: Connection, build: Callable[..., ChunkWorker], arguments: tuple[object, ...]
) -> None:
    # The parent handles Ctrl-C; a worker ends when its pipe does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker = build(tasks.recv(), *arguments)
        results.send(None)
        # Everything allocated so far lives as long as the worker; the loop makes no reference cycles.
        gc.freeze()
        gc.disable()
        while True:
            task = tasks.recv()
            results.send(worker.make(task) if isinstance(task, MakeTask) else worker.sign(task))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except Exception as problem:  # noqa: BLE001  the parent tells it; the text of a foreign error may hold a secret
        results.send(failure_of(problem))
    finally:
        # No clean-up of inherited state: the parent owns it.
        os._exit(0)
