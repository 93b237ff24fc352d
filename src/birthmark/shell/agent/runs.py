"""Runs: the same key gets the same run, at most one device a head, and everything is on disk before it is begun.

Power cut: a run that was stored and not answered is undecided. The same request again goes on with the attempt that was
stored with it, so the engine's promise holds: the same attempt, the same answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal

import msgspec

from birthmark.adapters.runstore import RunStore, StoredRun
from birthmark.errors import BirthmarkError, DeviceFault, Refused, Tampered, Unavailable
from birthmark.shell.agent.board import Board
from birthmark.shell.agent.messages import ResultShown, RunAsked, RunShown, StepShown
from birthmark.shell.line.session import Line, LineRun, Outcome, Progress
from birthmark.wire.service import ErrorShown

__all__ = ["Runs"]

_DECIDES = (Refused, DeviceFault, Tampered)
_STEPS = 64

# Made at import: msgspec does not bear two threads that are both the first to read a type.
_runs_shown = msgspec.json.Decoder(RunShown)
_runs_asked = msgspec.json.Decoder(RunAsked)


@dataclass(eq=False)
class _Live:
    """A run under way. ``steps`` grows; what came out is in the store before ``done`` is set."""

    stored: StoredRun
    asked: RunAsked
    head: str
    line_run: LineRun | None = None
    steps: list[StepShown] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0


class Runs:
    """``heads``: name → target URI; a caller names a head, never a target: a URI can name a library to load."""

    def __init__(self, line: Line, store: RunStore, heads: Mapping[str, str], *, clock: Callable[[], datetime]) -> None:
        self._line = line
        self._store = store
        self._heads = dict(heads)
        self._clock = clock
        self._lock = threading.Lock()
        self._live: dict[str, _Live] = {}
        self._stuck: dict[str, LineRun] = {}
        self.board = Board(line.station, list(heads), clock=clock)

    def post(self, key: str, asked: RunAsked) -> RunShown:
        """Begin a run, go on with an undecided one, or show what became of it; what is begun is on disk before.

        Raises ``Refused``: ``agent.key_reused``, ``agent.head_unknown``; ``Unavailable``: ``agent.head_busy``,
        ``agent.device_busy``.
        """
        head = self._head(asked.head)
        request = msgspec.json.encode(msgspec.structs.replace(asked, head=head)).decode()
        name = sha256(f"{self._line.station}\n{key}".encode()).hexdigest()[:32]
        with self._lock:
            if (live := self._live.get(name)) is not None and live.stored.request == request:
                return self._shown(live.stored, live)
            stored = self._store.get(name)
            if stored is not None and stored.request != request:
                raise _key_reused(name)
            if stored is not None and stored.decided:
                return self._shown(stored, None)
            self._require_free(head, asked.device_serial)
            if stored is None:
                attempt = self._line.attempt_for(asked.device_serial)
                stored = StoredRun(name, request, asked.device_serial, attempt, _text(self._clock()))
                self._store.add(stored)
            live = self._live[name] = _Live(stored, asked, head, began=time.monotonic())
        self._start(live)
        return self._shown(live.stored, live)

    def show(self, name: str, wait_s: float = 0.0) -> RunShown:
        """Return a run when it ends, after ``wait_s`` seconds at the latest; ``Refused("agent.run_unknown")``."""
        with self._lock:
            live = self._live.get(name)
        if live is not None and wait_s > 0:
            live.done.wait(wait_s)
        with self._lock:
            live = self._live.get(name)
            stored = self._store.get(name)
        if stored is None:
            raise Refused(
                "agent.run_unknown",
                "there is no such run",
                hint="Send the request again with its Idempotency-Key: that begins the run or shows it.",
            )
        return self._shown(stored, live)

    def settle(self, seconds: float) -> None:
        """Wait until everything that is under way has been put into the store."""
        end = time.monotonic() + seconds
        with self._lock:
            waiting = list(self._live.values())
        for live in waiting:
            live.done.wait(max(0.0, end - time.monotonic()))

    def _head(self, asked: str | None) -> str:
        if asked is None and len(self._heads) == 1:
            return next(iter(self._heads))
        if asked not in self._heads:
            raise Refused(
                "agent.head_unknown",
                "which head is it?" if asked is None else f"this agent has no head {asked}",
                hint=f"Name one of: {', '.join(self._heads)}; heads are given with --head when the agent is started.",
            )
        return asked

    def _require_free(self, head: str, device_serial: str) -> None:
        for live in self._live.values():
            facts = {"head": live.head, "device_serial": live.asked.device_serial}
            if live.head == head:
                raise Unavailable(
                    "agent.head_busy",
                    f"head {live.head} works on {live.asked.device_serial}",
                    hint="Wait until it is done, then send the same request again.",
                    **facts,
                )
            if live.asked.device_serial == device_serial:
                raise Unavailable(
                    "agent.device_busy",
                    f"head {live.head} works on {device_serial}",
                    hint="A serial stands for one unit: check what is in the other head.",
                    **facts,
                )
        stuck = self._stuck.get(device_serial)
        if stuck is not None and not stuck.wait(0):
            raise Unavailable(
                "agent.device_busy",
                f"the link to {device_serial} still hangs from the run before",
                hint="Take the device out and put it in again, then send the same request again.",
                device_serial=device_serial,
            )
        self._stuck.pop(device_serial, None)

    def _start(self, live: _Live) -> None:
        self.board.begin(live.head, live.asked.device_serial)

        def watch(step: Progress) -> None:
            if len(live.steps) < _STEPS and step.status != "start":
                live.steps.append(StepShown(step=step.step, status=step.status, ms=step.ms, error=step.code))
            if step.status == "start":
                self.board.step(live.head, step.step)

        def attend() -> None:
            outcome, error = None, None
            try:
                live.line_run = self._line.begin(
                    live.asked.device_serial,
                    self._heads[live.head],
                    attempt=live.stored.attempt,
                    handshake=live.asked.handshake,
                    progress=watch,
                )
                outcome = live.line_run.finish()
            except BirthmarkError as problem:
                error = problem
            except RuntimeError:
                # The line was closed between the request and its begin: nothing happened.
                pass
            self._end(live, outcome, error)

        threading.Thread(target=attend, name="attendant", daemon=True).start()

    def _end(self, live: _Live, outcome: Outcome | None, error: BirthmarkError | None) -> None:
        answer = self._answer(live, outcome, error)
        try:
            self._store.answer(
                live.stored.id, msgspec.json.encode(answer).decode(), decided=answer.state in ("passed", "failed")
            )
        except BirthmarkError as problem:
            # What is not on disk is not passed: the same request again proves it and stores it.
            answer = self._answer(live, None, problem)
        with self._lock:
            self._live.pop(live.stored.id, None)
            if live.line_run is not None and not live.line_run.wait(0):
                self._stuck[live.asked.device_serial] = live.line_run
        self.board.end(answer, round((time.monotonic() - live.began) * 1000, 3))
        live.done.set()

    def _answer(self, live: _Live, outcome: Outcome | None, error: BirthmarkError | None) -> RunShown:
        state: Literal["passed", "failed", "undecided"] = "undecided"
        if outcome is not None:
            state = "passed"
        elif isinstance(error, _DECIDES) and error.code != "device.in_progress":
            state = "failed"
        return RunShown(
            id=live.stored.id,
            state=state,
            device_serial=live.asked.device_serial,
            head=live.head,
            handshake=live.asked.handshake,
            attempt=live.stored.attempt if outcome is None else outcome.attempt,
            created=live.stored.created,
            steps=tuple(live.steps),
            result=None if outcome is None else _result(outcome),
            error=None if error is None else msgspec.convert(error.document(), ErrorShown),
        )

    def _shown(self, stored: StoredRun, live: _Live | None) -> RunShown:
        if live is None and stored.answer is not None:
            return _runs_shown.decode(stored.answer)
        asked = _runs_asked.decode(stored.request)
        return RunShown(
            id=stored.id,
            state="undecided" if live is None else "running",
            device_serial=stored.device_serial,
            head=asked.head or "",
            handshake=asked.handshake,
            attempt=stored.attempt,
            created=stored.created,
            steps=() if live is None else tuple(live.steps),
        )


def _result(outcome: Outcome) -> ResultShown:
    return ResultShown(
        outcome=outcome.outcome,
        cert_serial=outcome.cert_serial,
        cert_sha256=outcome.cert_sha256,
        evidence=outcome.evidence,
        tls_version=None if outcome.handshake is None else outcome.handshake.tls_version,
        ms=round(sum(ms for _, ms in outcome.steps), 3),
    )


def _key_reused(run: str) -> Refused:
    return Refused(
        "agent.key_reused",
        "this Idempotency-Key was used before, for another request",
        hint="Make a new key for every device and every new try; repeat a request with its own key.",
        run=run,
    )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
