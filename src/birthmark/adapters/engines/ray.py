"""The engine beyond one machine: keys are made and sealed by workers of a Ray cluster, certificates are signed here.

A worker gets the template and the public half of the vault; nothing in either is secret. What leaves it, and so what
Ray's object store and its spill files can hold, are sealed slots, hashes and TBS. The CA key is in this process only.
A worker that dies is replaced and its chunks are made anew elsewhere: they were not on record yet. A chunk that is
here needs its worker no more.

Whoever may run code in the cluster reads the memory of the workers, and answers with what Ray unpickles here. The
cluster has to be as trusted, and as closed, as the machine of this process (docs/scale.md).
"""

from __future__ import annotations

import logging
import os
import resource
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError

from birthmark import __version__
from birthmark.adapters.engines.failure import Failure, failure_of
from birthmark.adapters.engines.foreign import check_chunk
from birthmark.adapters.engines.start import BulkStart
from birthmark.adapters.engines.worker import ChunkMaker, PreparedChunk
from birthmark.errors import Misconfigured, StationFault, Unavailable
from birthmark.pki.template import Template
from birthmark.ports import MadeChunk, MakeTask, SignedChunk, SignTask
from birthmark.wire.vault import VaultRecipient

__all__ = ["RayEngine"]

_START_S = 120.0
_SILENCE_S = 600.0
"""How long all workers together may say nothing."""
_LOSSES = 4
"""Workers lost in a row, for each there is, without one chunk in between."""
_STORE_OCTETS = 128 << 20
_LOST = (RayActorError, ObjectLostError)


class _Maker:
    """The actor. It answers with a failure instead of raising: Ray writes the text of exceptions into its logs."""

    def __init__(self, template: bytes, recipient: bytes) -> None:
        # A core file would hold keys that are not sealed yet.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._maker: ChunkMaker | None = None
        self._failure: Failure | None = None
        try:
            self._maker = ChunkMaker(Template.from_bytes(template), VaultRecipient(recipient), os.urandom)
        except Exception as problem:  # noqa: BLE001
            self._failure = failure_of(problem)

    def introduce(self) -> tuple[str, str, int] | Failure:
        """Return version, node and process id."""
        return self._failure or (__version__, ray.get_runtime_context().get_node_id(), os.getpid())

    def make(self, task: MakeTask) -> PreparedChunk | Failure:
        """Make one chunk."""
        try:
            assert self._maker is not None  # noqa: S101  a maker without one is not given work
            return self._maker.make(task)
        except Exception as problem:  # noqa: BLE001
            return failure_of(problem)


@dataclass(eq=False, slots=True)
class _Worker:
    actor: Any
    node: str
    pid: int
    load: int = 0


class RayEngine:
    """Implements ``ports.Engine``. ``address``: of a running cluster; without one, a cluster of this machine alone is
    started and ends with the engine."""

    def __init__(self, start: BulkStart, workers: int, address: str | None) -> None:
        self._start = start
        self._template = Template.from_bytes(start.template)
        self._workers: list[_Worker] = []
        self._under_way: dict[Any, tuple[_Worker, MakeTask]] = {}
        self._prepared: dict[int, PreparedChunk] = {}
        self._to_sign: deque[SignTask] = deque()
        self._losses = 0
        self._owns_cluster = not ray.is_initialized()
        self._signer = start.signer()
        self._connect(workers, address)
        try:
            self._actor_class: Any = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Maker)
            actors = [self._begin() for _ in range(workers)]
            self._workers = [self._introduced(actor) for actor in actors]
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, start: BulkStart, *, workers: int, address: str | None) -> RayEngine:
        """Start ``workers`` actors in the cluster at ``address``."""
        return cls(start, workers, address)

    def _connect(self, workers: int, address: str | None) -> None:
        if not self._owns_cluster:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local: dict[str, Any] = {
            "num_cpus": workers,
            "object_store_memory": _STORE_OCTETS,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else local),
            )
        except (ConnectionError, RuntimeError, ValueError, RayError) as problem:
            raise Unavailable(
                "engine.cluster",
                f"the Ray cluster cannot be reached: {type(problem).__name__}",
                hint="Check --address and that the same version of Ray runs there; then try again.",
                address=address,
            ) from problem

    def _begin(self) -> Any:
        return self._actor_class.remote(self._start.template, self._start.recipient)

    def _introduced(self, actor: Any) -> _Worker:
        """Return the worker when it is up and of our version."""
        try:
            answer = ray.get(actor.introduce.remote(), timeout=_START_S)
        except (GetTimeoutError, RayError) as problem:
            raise StationFault(
                "engine.worker.start",
                f"a worker of the Ray cluster does not start: {type(problem).__name__}",
                hint="Check that the cluster has free processors, and this program installed on every node.",
            ) from problem
        if isinstance(answer, Failure):
            raise answer.error()
        version, node, pid = answer
        if version != __version__:
            raise Misconfigured(
                "engine.version",
                f"a worker of the Ray cluster runs version {version}, this program is {__version__}",
                hint="Install the same version on every node.",
            )
        return _Worker(actor, node, pid)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers on this machine."""
        here = ray.get_runtime_context().get_node_id()
        return [worker.pid for worker in self._workers if worker.node == here]

    def make(self, task: MakeTask) -> None:
        worker = min(self._workers, key=lambda candidate: candidate.load)
        worker.load += 1
        self._under_way[worker.actor.make.remote(task)] = worker, task

    def sign(self, task: SignTask) -> None:
        self._to_sign.append(task)

    def results(self) -> Sequence[MadeChunk | SignedChunk]:
        found: list[MadeChunk | SignedChunk] = []
        while self._to_sign:
            task = self._to_sign.popleft()
            found.append(self._signer.sign(task, self._prepared.pop(task.task)))
        while self._under_way:
            found += self._made(wait=not found)
            if found:
                break
        return found

    def _made(self, *, wait: bool) -> list[MadeChunk]:
        references = list(self._under_way)
        ready, waiting = ray.wait(references, num_returns=1, timeout=_SILENCE_S if wait else 0)
        if not ready and wait:
            raise StationFault(
                "engine.worker.silent",
                f"no worker of the Ray cluster made a chunk in {_SILENCE_S:.0f} s",
                hint="Look at the cluster; then run `birthmark order make` again: nothing on record is lost.",
            )
        if ready and waiting:
            ready += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        taken = (self._take(reference) for reference in ready)
        return [made for made in taken if made is not None]

    def _take(self, reference: Any) -> MadeChunk | None:
        """Return the chunk; None when its worker was lost and it is being made anew."""
        worker, task = self._under_way.pop(reference)
        worker.load -= 1
        try:
            answer = ray.get(reference)
        except _LOST:
            self._replace(worker)
            self.make(task)
            return None
        if isinstance(answer, Failure):
            raise answer.error()
        self._losses = 0
        prepared = self._prepared[task.task] = check_chunk(self._template, task, answer)
        return prepared.made

    def _replace(self, lost: _Worker) -> None:
        if lost not in self._workers:
            return
        self._workers.remove(lost)
        self._losses += 1
        if self._losses > _LOSSES * (len(self._workers) + 1):
            raise StationFault(
                "engine.worker.died",
                "workers of the Ray cluster die again and again",
                hint="Check memory on its nodes; then run `birthmark order make` again: nothing on record is lost.",
            )
        with suppress(RayError):
            ray.kill(lost.actor)
        self._workers.append(self._introduced(self._begin()))

    def close(self) -> None:
        self._under_way.clear()
        self._prepared.clear()
        if not ray.is_initialized():
            return
        for worker in self._workers:
            with suppress(RayError):
                ray.kill(worker.actor)
        self._workers = []
        if self._owns_cluster:
            ray.shutdown()
