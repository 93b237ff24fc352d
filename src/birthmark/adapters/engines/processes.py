"""The default engine: worker processes on this machine, started fresh (spawn), fed through pipes.

A software CA key is opened by every worker; a token is opened by every worker with a session of its own. Secrets go
to the workers through their pipes, never through arguments or the environment.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from birthmark.adapters.engines.worker import BulkWorker
from birthmark.errors import BirthmarkError, Fact, StationFault
from birthmark.ports import MadeChunk, MakeTask, SignedChunk, SignTask

__all__ = ["ProcessEngine", "WorkerStart"]

_SENT_AT_ONCE = 4
"""Chunks to make that lie in one pipe: 4 × 33 kB fit into its buffer, so the parent never waits while a worker does."""


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """How a worker comes into being: ``build(secret_values)`` is importable and returns the worker."""

    build: Callable[..., BulkWorker]
    arguments: tuple[object, ...]
    secrets: dict[str, bytes]

    def __repr__(self) -> str:
        return f"WorkerStart(build={self.build!r})"


class ProcessEngine:
    """Implements ``ports.Engine``. A chunk stays with the worker that made it."""

    def __init__(self, start: WorkerStart, processes: int) -> None:
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._owner: dict[int, Connection] = {}
        self._load: dict[Connection, int] = {}
        self._sent: dict[Connection, int] = {}
        self._waiting: dict[Connection, deque[MakeTask]] = {}
        try:
            self._start(start, processes)
        except BaseException:
            self.close()
            raise

    def _start(self, start: WorkerStart, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, start.build, start.arguments), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
            self._load[ours] = self._sent[ours] = 0
            self._waiting[ours] = deque()
            self._send(ours, start.secrets)
        for connection in self._connections:
            self._receive(connection)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [process.pid or 0 for process in self._processes]

    def make(self, task: MakeTask) -> None:
        connection = min(self._connections, key=lambda candidate: self._load[candidate])
        self._owner[task.task] = connection
        self._load[connection] += 1
        if self._sent[connection] < _SENT_AT_ONCE:
            self._sent[connection] += 1
            self._send(connection, task)
        else:
            self._waiting[connection].append(task)

    def sign(self, task: SignTask) -> None:
        connection = self._owner.pop(task.task)
        self._load[connection] += 1
        self._send(connection, task)

    def results(self) -> Sequence[MadeChunk | SignedChunk]:
        found: list[MadeChunk | SignedChunk] = []
        ready: deque[object] = deque(wait(self._connections))
        while ready:
            connection = ready.popleft()
            assert isinstance(connection, Connection)  # noqa: S101  wait() gives back what it got
            result = self._receive(connection)
            found.append(result)
            self._load[connection] -= 1
            if isinstance(result, MadeChunk):
                self._sent[connection] -= 1
                if self._waiting[connection]:
                    self._sent[connection] += 1
                    self._send(connection, self._waiting[connection].popleft())
        return found

    def _send(self, connection: Connection, task: MakeTask | SignTask | dict[str, bytes]) -> None:
        try:
            connection.send(task)
        except OSError as problem:
            raise _died() from problem

    def _receive(self, connection: Connection) -> MadeChunk | SignedChunk:
        try:
            message = connection.recv()
        except (EOFError, OSError) as problem:
            raise _died() from problem
        if isinstance(message, _Failure):
            raise message.family(message.code, message.message, hint=message.hint, **message.facts)
        result: MadeChunk | SignedChunk = message
        return result

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


@dataclass(frozen=True, slots=True)
class _Failure:
    family: type[BirthmarkError]
    code: str
    message: str
    hint: str
    facts: dict[str, Fact]


def _died() -> StationFault:
    return StationFault(
        "engine.worker.died",
        "a key-making process ended unexpectedly",
        hint="Run `birthmark order make` again: nothing that was on record is lost. Check memory and the CA token.",
    )


def _failed(problem: Exception) -> _Failure:
    return _Failure(
        StationFault,
        "engine.worker.failed",
        f"a key-making process ended with {type(problem).__name__}",
        "Run `birthmark order make` again; if it repeats, report it with the version of this program.",
        {"exception": type(problem).__name__},
    )


def _serve(connection: Connection, build: Callable[..., BulkWorker], arguments: tuple[object, ...]) -> None:
    # The parent handles Ctrl-C; a worker ends when its pipe does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker = build(connection.recv(), *arguments)
        connection.send(None)
        # Everything allocated so far lives as long as the worker; the loop makes no reference cycles.
        gc.freeze()
        gc.disable()
        while True:
            task = connection.recv()
            connection.send(worker.make(task) if isinstance(task, MakeTask) else worker.sign(task))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BirthmarkError as problem:
        facts = dict(problem.facts)
        connection.send(_Failure(type(problem), problem.code, problem.message, problem.hint, facts))
    except Exception as problem:  # noqa: BLE001  the parent tells it; the text of a foreign error may hold a secret
        connection.send(_failed(problem))
    finally:
        # No clean-up of inherited state: the parent owns it.
        os._exit(0)
