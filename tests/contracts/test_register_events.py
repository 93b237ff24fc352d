"""What ``registered`` may say, in every ledger; it changes no table, and replay agrees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import Refused
from birthmark.model import events as e
from support.ledger import AT, Author, TestClock, create_sqlite
from support.postgres import create_postgres

GOOD = "D-1 1 enabled done\nD-2 0 blocked refused"


@pytest.fixture(params=["sqlite", "postgres"])
def author(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Author]:
    if request.param == "sqlite":
        ledger: Any = create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())
    else:
        ledger = create_postgres(request.getfixturevalue("postgres").conninfo(), tmp_path / "ledger", TestClock())
    made = Author(ledger)
    made.order("lot", ["D-1", "D-2"])
    yield made
    replay_ledger(ledger, progress=lambda count: None)
    ledger.close()


def say(author: Author, lines: str, *, count: int = 2, refused: int = 1, digest: str | None = None) -> None:
    data = lines.encode()
    event = e.Registered(
        at=AT,
        cloud="export:x",
        count=count,
        refused=refused,
        lines_sha256=digest or hashlib.sha256(data).hexdigest(),
        by="t",
    )
    with author.ledger.transaction() as tx:
        tx.append(event, data)


def test_lines_that_fit_are_taken_also_twice(author: Author) -> None:
    before = author.ledger.head().size
    say(author, GOOD)
    say(author, GOOD)
    assert author.ledger.head().size == before + 2


@pytest.mark.parametrize(
    "lie",
    [
        {"lines": GOOD, "count": 3},
        {"lines": GOOD, "refused": 0},
        {"lines": GOOD, "digest": "00" * 32},
        {"lines": "D-2 0 blocked refused\nD-1 1 enabled done"},
        {"lines": "D-1 1 enabled done\nD-1 1 enabled refused"},
        {"lines": "D-1 1 enabled done\nD-9 0 blocked refused"},
        {"lines": "D-1 999999 enabled done\nD-2 0 blocked refused"},
        {"lines": "D-1 1 enabled maybe\nD-2 0 blocked refused"},
        {"lines": "D-1 01 enabled done\nD-2 0 blocked refused"},
        {"lines": GOOD + "\n", "count": 3},
        {"lines": "", "count": 0, "refused": 0},
    ],
)
def test_lines_that_do_not_fit_are_refused(author: Author, lie: dict[str, Any]) -> None:
    before = author.ledger.head().size
    with pytest.raises(Refused, match=r"ledger\.registered"):
        say(author, **lie)
    assert author.ledger.head().size == before
