"""Power cuts under the real ledger: at any write or sync, whatever the drive kept of the rest, nothing said is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from birthmark.adapters.ledgers.sqlite import SqliteLedger, connection, store
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.model.records import Publication
from birthmark.tlog.merkle import Frontier
from support.apswdb import ApswDatabase, Disk, PowerCut
from support.ledger import Author, TestClock, create_sqlite, keys_of, serials

DEVICES, CHUNK = serials("A", 8), 4
CUTS = 240
# So few pages in the WAL that it is copied back many times in the story.
CHECKPOINT = "PRAGMA wal_autocheckpoint = 12"


@dataclass
class Witness:
    """What somebody outside was told, and must find again."""

    said: list[tuple[int, bytes]] = field(default_factory=list)
    published: int = 0
    stored: set[int] = field(default_factory=set)
    erased: set[tuple[int, int]] = field(default_factory=set)


def go_on(ledger: SqliteLedger, witness: Witness) -> None:
    """Do what is left of the story: it can be called again after every interruption."""
    author, records = Author(ledger, witness.said), ledger.records
    if records.order("a") is None:
        author.order("a", DEVICES, chunk=CHUNK)
    for intent in records.intents("reserved"):
        author.abandon(intent.intent)
    for chunk in records.chunks("a", "ordered", -1, 99):
        devices = DEVICES[chunk.first : chunk.first + chunk.count]
        intent_number = author.reserve("a", chunk=chunk.chunk, count=chunk.count)
        author.issue_chunk(intent_number, devices)
        witness.stored.add(intent_number)
    for number, name in enumerate(DEVICES[::2]):
        _provision(author, witness, name)
        if number % 2:
            _publish(ledger, witness)
    _publish(ledger, witness)


def _provision(author: Author, witness: Witness, name: str) -> None:
    found = author.ledger.records.device(name)
    attempt = f"attempt-{name}"
    if found.state is DeviceState.POOLED:
        author.draw(name, attempt)
        found = author.ledger.records.device(name)
    if found.state is DeviceState.DRAWN:
        author.install(name, attempt)
        found = author.ledger.records.device(name)
    if found.state is DeviceState.INSTALLED:
        author.verify(name, attempt, found.intent, found.position)
        witness.erased.add((found.intent, found.position))


def _publish(ledger: SqliteLedger, witness: Witness) -> None:
    size = ledger.head().size
    frontier = Frontier().extend(ledger.leaf_hashes(0, size)).to_bytes()
    ledger.record_publication(Publication(size, frontier, b"checkpoint of %d" % size))
    witness.published = size


def findings(ledger: SqliteLedger, witness: Witness) -> list[str]:
    """Return what the power cut broke."""
    entries = dict(ledger.entries(0, 1 << 30))
    events = [e.decode_entry(entry)[0] for entry in entries.values()]
    intents = [event for event in events if isinstance(event, e.Reserved)]
    keys = [
        key for seq, entry in entries.items() for key in keys_of(e.decode_entry(entry)[1])
        if isinstance(e.decode_entry(entry)[0], e.Reserved)
    ]  # fmt: skip
    doubles = Counter(event.device for event in events if isinstance(event, e.Issued | e.Drawn | e.Verified))
    publication = ledger.publication()
    found = []
    if list(ledger.rows("PRAGMA integrity_check")) != [("ok",)]:
        found.append("damaged")
    if any(entries.get(seq) != entry for seq, entry in witness.said):
        found.append("lost")
    if publication.size < witness.published:
        found.append("head fell")
    if publication.size:
        frontier = Frontier().extend(ledger.leaf_hashes(0, publication.size)).to_bytes()
        if publication.frontier != frontier:
            found.append("head forked")
    if len(set(keys)) < len(keys) or len({i.serial_prefix for i in intents}) < len(intents):
        found.append("doubled")
    if doubles and max(doubles.values()) > 3:
        found.append("device doubled")
    with ledger.transaction() as tx:
        if any(tx.vault.read(intent, 1) is None and (intent, 1) not in witness.erased for intent in witness.stored):
            found.append("key lost")
        if any(tx.vault.read(*where) is not None for where in witness.erased):
            found.append("key back")
    replay_ledger(ledger, progress=lambda count: None)
    return found


@dataclass
class Laboratory:
    path: Path
    start: bytes
    disk: Disk
    level: str = "FULL"

    def open(self) -> SqliteLedger:
        return SqliteLedger(self.path, clock=TestClock())

    def length(self) -> int:
        """Return how many writes and syncs the whole story has."""
        self.disk = Disk({str(self.path): self.start})
        ledger = self.open()
        before = self.disk.operations
        go_on(ledger, Witness())
        assert findings(ledger, Witness()) == []
        after = self.disk.operations
        ledger.close()
        return after - before

    def trial(self, cut_at: int, seed: int) -> list[str]:
        """Cut the power once, look, go on, and look again."""
        self.disk, witness = Disk({str(self.path): self.start}), Witness()
        ledger = self.open()
        self.disk.cut_at = self.disk.operations + cut_at
        with pytest.raises(PowerCut):
            go_on(ledger, witness)
        self.disk.dead = True
        ledger.close()
        self.disk = self.disk.after_power_cut(seed)
        again = self.open()
        try:
            found = findings(again, witness)
            if not found:
                go_on(again, witness)
                found = findings(again, witness)
                assert again.records.totals("a").verified == len(DEVICES) // 2
        finally:
            again.close()
        return found


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    path = tmp_path / "ledger" / "ledger.db"
    create_sqlite(path, TestClock()).close()
    made = Laboratory(path, path.read_bytes(), Disk({}))

    def connect(where: Path) -> ApswDatabase:
        changes = (f"PRAGMA synchronous = {made.level}", CHECKPOINT)
        return ApswDatabase(where, made.disk, (*connection._PRAGMAS, *changes))

    monkeypatch.setattr(store, "connect", connect)
    monkeypatch.setattr(store.SqliteLedger, "_connect_reader", lambda self, path: self._database)
    return made


def _cuts(length: int) -> Iterator[tuple[int, int]]:
    for number in range(CUTS):
        yield 1 + number * length // CUTS, number


def _outcomes(laboratory: Laboratory, trial: Callable[[int, int], list[str]]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for cut_at, seed in _cuts(laboratory.length()):
        outcomes.update(trial(cut_at, seed) or ["whole"])
    return outcomes


def test_no_power_cut_loses_or_doubles_anything(laboratory: Laboratory):
    assert laboratory.length() >= CUTS
    assert _outcomes(laboratory, laboratory.trial) == {"whole": CUTS}


def test_a_cut_right_after_the_first_commit_finds_the_order(laboratory: Laboratory):
    """The pragma of the product itself, not one of this test: FULL is what it asks for."""
    assert "PRAGMA synchronous = FULL" in connection._PRAGMAS
    assert "PRAGMA journal_mode = WAL" in connection._PRAGMAS
    laboratory.disk = Disk({str(laboratory.path): laboratory.start})
    ledger = laboratory.open()
    Author(ledger).order("a", DEVICES)
    laboratory.disk = laboratory.disk.after_power_cut(1)
    ledger.close()
    again = laboratory.open()
    assert again.records.totals("a").ordered == len(DEVICES)
    again.close()


def test_the_test_bites(laboratory: Laboratory):
    """With synchronous=NORMAL the same cuts lose what was acknowledged."""
    laboratory.level = "NORMAL"
    outcomes = _outcomes(laboratory, laboratory.trial)
    assert outcomes["lost"] > CUTS // 4
