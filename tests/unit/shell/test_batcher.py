"""The queue of the service: who was just answered is waited for, nobody waits for somebody who does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from birthmark.ports import CredentialRequest
from birthmark.shell.api import batcher as batching
from birthmark.shell.api.batcher import Batcher
from birthmark.workflow.line.issuebatch import Answer, Asked


class AnswersAtOnce:
    """Stands for ``IssueBatch``: every round answers all that it is given."""

    is_busy = False

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def run(self, requests: Sequence[Asked]) -> list[Answer]:
        self.rounds.append(len(requests))
        return [Answer(one) for one in requests]

    def lost(self) -> list[Asked]:
        return []


def asked(number: int) -> Asked:
    return Asked(CredentialRequest(f"attempt-{number:04d}", "a/line", f"EL-{number}", b""), "a", "00")


def run(test: Callable[[Batcher, AnswersAtOnce], Coroutine[Any, Any, None]]) -> AnswersAtOnce:
    batch = AnswersAtOnce()

    async def whole() -> None:
        batcher = Batcher(batch)  # type: ignore[arg-type]
        try:
            await test(batcher, batch)
        finally:
            await asyncio.to_thread(batcher.close)

    asyncio.run(whole())
    return batch


def ask(batcher: Batcher, number: int) -> asyncio.Future[Answer]:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    batcher.submit(asked(number), future.set_result)
    return future


def together(batcher: Batcher, numbers: range) -> list[asyncio.Future[Answer]]:
    """Submit while the thread cannot look."""
    with batcher._wake:  # a condition's lock may be taken again by who holds it
        return [ask(batcher, number) for number in numbers]


def test_a_round_waits_for_as_many_as_were_just_answered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "_GATHER_S", 60.0)
    monkeypatch.setattr(batching, "_GAP_S", 60.0)

    async def stations(batcher: Batcher, batch: AnswersAtOnce) -> None:
        await asyncio.gather(*together(batcher, range(3)))
        # One after another, as stations ask that were answered one after another.
        await asyncio.gather(*[ask(batcher, number) for number in range(3, 6)])

    assert run(stations).rounds == [3, 3]


def test_nobody_waits_for_ever_for_a_station_that_does_not_come(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "_GATHER_S", 0.0)

    async def stations(batcher: Batcher, batch: AnswersAtOnce) -> None:
        await asyncio.gather(*together(batcher, range(3)))
        await ask(batcher, 3)
        await ask(batcher, 4)

    assert run(stations).rounds == [3, 1, 1]


def test_a_gap_in_arrivals_ends_the_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "_GATHER_S", 60.0)
    monkeypatch.setattr(batching, "_GAP_S", 0.0)

    async def stations(batcher: Batcher, batch: AnswersAtOnce) -> None:
        await asyncio.gather(*together(batcher, range(3)))
        await ask(batcher, 3)

    assert run(stations).rounds == [3, 1]


def test_closing_ends_the_wait_and_answers_what_was_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "_GATHER_S", 60.0)
    monkeypatch.setattr(batching, "_GAP_S", 60.0)

    async def stations(batcher: Batcher, batch: AnswersAtOnce) -> None:
        await asyncio.gather(*together(batcher, range(3)))
        last = ask(batcher, 3)
        await asyncio.to_thread(batcher.close)
        await last

    assert run(stations).rounds == [3, 1]
