"""The replica of a site's tables is what the site's own ledger holds, however its log is cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sqlite.replay import FOLDED_TABLES
from birthmark.adapters.ledgers.sqlite.replica import SqliteReplica
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from support.ledger import AT, Author, TestClock, create_sqlite, serials

POOL, BORN = serials("P", 6), serials("B", 3)
_Entry = tuple[e.Event, bytes]


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    author = Author(create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock()))
    first, second = author.make("pool", POOL)
    author.draw(POOL[0], "attempt-1")
    author.install(POOL[0], "attempt-1")
    author.verify(POOL[0], "attempt-1", first, 0)
    author.draw(POOL[5], "attempt-2")
    author.fail(POOL[5], "attempt-2")
    author.supersede(POOL[5])
    author.scrap(POOL[1])
    author.order("born", BORN, origin="device")
    author.issue(author.reserve("born", device=BORN[0], attempt="attempt-3"), BORN[0])
    author.abandon(author.reserve("born", device=BORN[1], attempt="attempt-4"))
    assert second > first
    yield author
    author.ledger.close()


def entries_of(author: Author) -> list[_Entry]:
    return [e.decode_entry(entry) for _, entry in author.ledger.entries(0, author.ledger.head().size)]


def pieces(entries: list[_Entry], step: int) -> Iterator[tuple[int, list[_Entry]]]:
    """Cut a log into pieces of ``step``, but never between the certificates of one intent."""
    first, held = 0, []
    for number, entry in enumerate(entries):
        same = held and isinstance(entry[0], e.Issued) and isinstance(held[-1][0], e.Issued)
        if len(held) >= step and not (same and entry[0].intent == held[-1][0].intent):
            yield first, held
            first, held = number, []
        held.append(entry)
    yield first, held


def tables(source: Any) -> dict[str, list[Any]]:
    return {name: source(f'SELECT * FROM "{name}" ORDER BY 1, 2') for name in FOLDED_TABLES}


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
@pytest.mark.parametrize("again", [False, True])
def test_it_holds_what_the_site_holds(author: Author, tmp_path: Path, step: int, again: bool):
    replica = SqliteReplica(tmp_path / "replica")
    for first, piece in pieces(entries_of(author), step):
        assert replica.take(first, piece) == {}
        if again:
            replica.keep()
            replica.close()
            replica = SqliteReplica(tmp_path / "replica")
            assert replica.size == first + len(piece)
    replica.keep()
    found = tables(lambda query: replica._database.execute(query).fetchall())
    assert found == tables(lambda query: list(author.ledger.rows(query)))
    assert replica.places([POOL[0], "nobody"]) == {POOL[0]: ("pool", DeviceState.VERIFIED)}
    for device in (*POOL[:5], BORN[0]):
        assert replica.certificate_entries([device]) == {device: author.ledger.records.device(device).issued_seq}
    assert replica.certificate_entries([BORN[1], "nobody"]) == {}
    replica.close()


def test_what_was_not_kept_is_forgotten(author: Author, tmp_path: Path):
    replica = SqliteReplica(tmp_path / "replica")
    entries = entries_of(author)
    replica.take(0, entries[:3])
    replica.keep()
    replica.take(3, entries[3:5])
    replica.close()
    replica = SqliteReplica(tmp_path / "replica")
    assert replica.size == 3
    replica.start_over()
    assert replica.size == 0
    replica.take(0, entries)
    replica.close()


def test_unlawful_entries_change_nothing_and_do_not_move_the_numbers(author: Author, tmp_path: Path):
    replica = SqliteReplica(tmp_path / "replica")
    entries: list[_Entry | None] = list(entries_of(author))
    wrong: list[_Entry | None] = [
        (e.Drawn(at=AT, device=POOL[0], station="s", attempt="again-1"), b""),
        None,
        (e.Issued(at=AT, device=POOL[2], intent=1 << 70), b""),
        (e.Scrapped(at=AT, device=POOL[2], reason="good", by="x"), b""),
    ]
    refused = replica.take(0, [*entries, *wrong])
    size = len(entries)
    assert sorted(refused) == [size, size + 2]
    assert all(isinstance(problem, Refused) for problem in refused.values())
    assert replica.size == size + 4
    places = {POOL[2]: ("pool", DeviceState.SCRAPPED), POOL[0]: ("pool", DeviceState.VERIFIED)}
    assert replica.places([POOL[2], POOL[0]]) == places
    with pytest.raises(ValueError, match="does not follow"):
        replica.take(0, entries)
    replica.close()


def test_certificates_of_a_chunk_in_another_order_are_unlawful(author: Author, tmp_path: Path):
    replica = SqliteReplica(tmp_path / "replica")
    entries = entries_of(author)
    places = [number for number, (event, _) in enumerate(entries) if isinstance(event, e.Issued)][:4]
    entries[places[0]], entries[places[1]] = entries[places[1]], entries[places[0]]
    refused = replica.take(0, entries)
    assert set(places) <= set(refused)
    replica.close()
