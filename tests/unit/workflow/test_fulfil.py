"""Making an order: interrupted anywhere and run again there is one certificate a device, every attempt on record."""

from __future__ import annotations

import os
import signal
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sql import keyruns
from birthmark.adapters.ledgers.sqlite import SqliteLedger, connection, store
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import Refused, StationFault
from birthmark.model import events as e
from birthmark.model.ids import OrderId
from birthmark.pki.profile import load_preset
from birthmark.ports import Engine, MadeChunk, MakeTask, SealedChunk, SignedChunk, SignTask
from birthmark.tlog.tiles import encode_entries
from birthmark.workflow.orders import order as ordering
from birthmark.workflow.orders.fulfil import Fulfilment
from birthmark.workflow.orders.order import NewOrder, create_order
from support.apswdb import ApswDatabase, Disk
from support.bulkline import BulkCa
from support.ledger import TestClock, create_sqlite, make_records, pack, serials

DEVICES = serials("A", 11)


class Interrupted(Exception):
    """Thrown in at one call."""


class Wire:
    """Counts the calls of everything that goes through it, and breaks at one of them, before or after it."""

    def __init__(self, break_at: int | None = None, *, after: bool = False) -> None:
        self.calls: list[str] = []
        self._break_at, self._after = break_at, after

    def around(self, thing: Any, names: set[str]) -> Any:
        return _Around(self, thing, names)

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        self.calls.append(name)
        meets = len(self.calls) - 1 == self._break_at
        if meets and not self._after:
            raise Interrupted(name)
        yield
        if meets:
            raise Interrupted(name)


class _Around:
    def __init__(self, wire: Wire, thing: Any, names: set[str]) -> None:
        self._wire, self._thing, self._names = wire, thing, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if name == "vault":
            return _Around(self._wire, found, {"put"})
        if name == "transaction":
            return self._transaction
        if name not in self._names:
            return found

        def called(*arguments: Any, **named: Any) -> Any:
            with self._wire.call(name):
                return found(*arguments, **named)

        return called

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._wire.call("transaction"), self._thing.transaction() as tx:
            with self._wire.call("inside"):
                pass
            yield _Around(self._wire, tx, {"append", "append_issued", "serial_prefixes"})


@pytest.fixture(scope="module")
def ca() -> BulkCa:
    return BulkCa.make()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ordering, "CHUNK_SIZE", 4)
    found = tmp_path / "ledger" / "ledger.db"
    with closing(create_sqlite(found, TestClock())) as ledger:
        new_order(ledger, DEVICES)
    return found


def new_order(ledger: Any, devices: list[str], *, origin: Any = "injected") -> None:
    order = NewOrder(
        order=OrderId("a"), product="probe", profile=load_preset("tls-client"), key_algorithm="p256",
        key_origin=origin, ca="issuing", by="tester",
    )  # fmt: skip
    create_order(ledger, order, devices, clock=TestClock())


def fulfilment(ledger: Any, engine: Engine, *, records: Any = None, depth: int = 2) -> Fulfilment:
    records = records or ledger.records
    return Fulfilment(
        records.order("a"), template="00" * 32, ledger=ledger, records=records, engine=engine, clock=TestClock(),
        depth=depth,
    )  # fmt: skip


def opened(path: Path) -> Any:
    return closing(SqliteLedger(path, clock=TestClock()))


def require_whole(ledger: SqliteLedger, devices: list[str]) -> list[e.Abandoned]:
    """Every device has exactly one certificate of an intent that stands, and a sealed key; return what was given up."""
    events = [e.decode_entry(entry)[0] for _, entry in ledger.entries(0, 1 << 30)]
    issued = Counter(event.device for event in events if isinstance(event, e.Issued))
    reserved = [seq for seq, event in enumerate(events) if isinstance(event, e.Reserved)]
    abandoned = [event for event in events if isinstance(event, e.Abandoned)]
    signed = {event.intent for event in events if isinstance(event, e.Issued)}
    assert issued == Counter(devices)
    assert signed.isdisjoint({event.intent for event in abandoned})
    assert sorted(reserved) == sorted(signed | {event.intent for event in abandoned})
    totals = ledger.records.totals("a")
    assert (totals.stock, totals.ordered, totals.open) == (len(devices), len(devices), 0)
    with ledger.transaction() as tx:
        for name in devices:
            found = ledger.records.device(name)
            assert found is not None
            assert tx.vault.read(found.intent or 0, found.position or 0) is not None
    replay_ledger(ledger, progress=lambda count: None)
    return abandoned


def test_an_order_is_made_and_told(path: Path, ca: BulkCa):
    told: list[int] = []
    with opened(path) as ledger:
        assert fulfilment(ledger, ca.inline()).run(told.append) == len(DEVICES)
        assert sum(told) == len(DEVICES)
        assert require_whole(ledger, DEVICES) == []
        assert fulfilment(ledger, ca.inline()).run(told.append) == 0


def _number_of_calls(path: Path, ca: BulkCa, copy: Path) -> int:
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    wire = Wire()
    with opened(copy) as ledger:
        around = wire.around(ledger, set())
        engine = wire.around(ca.inline(), {"make", "sign", "results"})
        fulfilment(around, engine, records=ledger.records).run(lambda count: None)
    assert set(wire.calls) == {
        "transaction", "inside", "append", "append_issued", "serial_prefixes", "put", "make", "sign", "results",
    }  # fmt: skip
    return len(wire.calls)


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_at_any_call_and_run_again(path: Path, ca: BulkCa, tmp_path: Path, after: bool):
    start = path.read_bytes()
    given_up = 0
    for point in range(_number_of_calls(path, ca, tmp_path / "counted" / "ledger.db")):
        path.write_bytes(start)
        wire = Wire(point, after=after)
        with opened(path) as ledger:
            engine = wire.around(ca.inline(), {"make", "sign", "results"})
            broken = fulfilment(wire.around(ledger, set()), engine, records=ledger.records)
            with pytest.raises(Interrupted):
                broken.run(lambda count: None)
            left = [intent.intent for intent in ledger.records.intents("reserved")]
        with opened(path) as ledger:
            fulfilment(ledger, ca.inline()).run(lambda count: None)
            abandoned = require_whole(ledger, DEVICES)
        assert [event.intent for event in abandoned] == left
        given_up += len(left)
    assert given_up > 10


def test_nothing_is_signed_before_its_intent_is_durable(path: Path, ca: BulkCa):
    """Another connection sees the reservation at the moment when the signature is asked for."""
    engine, seen = ca.inline(), []
    sign = engine.sign
    with opened(path) as ledger, opened(path) as other:

        def watched(task: SignTask) -> None:
            seen.append(other.records.intent(task.intent))
            sign(task)

        engine.sign = watched  # type: ignore[method-assign]
        fulfilment(ledger, engine).run(lambda count: None)
    assert [intent is not None and intent.state for intent in seen] == ["reserved"] * 3


def test_a_worker_that_is_killed_costs_a_second_run_and_nothing_else(
    tmp_path: Path, ca: BulkCa, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ordering, "CHUNK_SIZE", 4)
    devices = serials("K", 120)
    with closing(create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())) as ledger:
        new_order(ledger, devices)
        with closing(ca.processes(2)) as engine:
            running = fulfilment(ledger, engine, depth=2)
            with pytest.raises(StationFault, match=r"engine\.worker\.died"):
                running.run(lambda count: os.kill(engine.pids[0], signal.SIGKILL))
        assert 0 < ledger.records.totals("a").stock < len(devices)
        with closing(ca.processes(2)) as engine:
            fulfilment(ledger, engine).run(lambda count: None)
        require_whole(ledger, devices)


def test_keys_born_in_devices_are_not_made_here(tmp_path: Path, ca: BulkCa):
    with closing(create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())) as ledger:
        new_order(ledger, DEVICES, origin="device")
        with pytest.raises(Refused, match=r"order\.key_origin"):
            fulfilment(ledger, ca.inline())


class HollowEngine:
    """Makes chunks of nothing, to see what the rest costs. Says how many chunks were with it at once."""

    def __init__(self) -> None:
        self._names: dict[int, list[str]] = {}
        self._done: list[MadeChunk | SignedChunk] = []
        self.most = 0

    def make(self, task: MakeTask) -> None:
        self._names[task.task] = task.device_serials.decode().split("\n")
        self.most = max(self.most, len(self._names))
        sealed = SealedChunk(b"x", 160, os.urandom(160 * task.count))
        self._done.append(MadeChunk(task.task, make_records(task.count), sealed))

    def sign(self, task: SignTask) -> None:
        names = self._names.pop(task.task)
        entries = [e.encode_entry(e.Issued(at=task.at, device=n, intent=task.intent), bytes(500)) for n in names]
        assert pack(entries)[0] == encode_entries(entries)
        self._done.append(SignedChunk(task.task, *pack(entries)))

    def results(self) -> list[MadeChunk | SignedChunk]:
        return [self._done.pop(0)]

    def close(self) -> None:
        return


def peak_of(path: Path, devices: int) -> tuple[int, int]:
    with closing(create_sqlite(path, TestClock())) as ledger:
        new_order(ledger, serials("M", devices))
        engine = HollowEngine()
        running = fulfilment(ledger, engine, depth=4)
        tracemalloc.start()
        running.run(lambda count: None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, engine.most


def test_memory_does_not_grow_with_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keyruns, "_FLUSH_AT", 4096)
    small, large = (peak_of(tmp_path / str(count) / "ledger.db", 512 * count) for count in (10, 50))
    assert small[1] == large[1] == 4
    # 20,000 devices more are 20 MB more of certificates and keys; an index of one more key run has 3 MB.
    assert large[0] < small[0] + 7_000_000


class TestBudget:
    """What 10,000 devices cost, counted. A change of these numbers is a change of the product's speed."""

    CHUNKS = 20

    def test_transactions_syncs_and_signatures(self, ca: BulkCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = tmp_path / "ledger" / "ledger.db"
        with closing(create_sqlite(path, TestClock())) as ledger:
            new_order(ledger, serials("A", 10_000))
        disk, statements = Disk({str(path): path.read_bytes()}), Counter[str]()

        class Counting(ApswDatabase):
            def execute(self, query: str, values: Any = ()) -> Any:
                statements[query.split()[0]] += 1
                return super().execute(query, values)

        monkeypatch.setattr(store, "connect", lambda where: Counting(where, disk, connection._PRAGMAS))
        # The disk of this test knows no shared memory: reading shares the writer's connection.
        monkeypatch.setattr(store.SqliteLedger, "_connect_reader", lambda self, path: self._database)
        engine = ca.inline()
        signatures = count_signatures(engine.worker._issuer, monkeypatch)
        with opened(path) as ledger:
            statements.clear()
            before = disk.syncs
            fulfilment(ledger, engine, depth=8).run(lambda count: None)
            assert ledger.records.totals("a").stock == 10_000
            assert statements["COMMIT"] <= 2 + self.CHUNKS // 2
            # One for each commit, three for each time that the WAL is copied back (WAL, database, new WAL header).
            assert disk.syncs - before <= statements["COMMIT"] + 3
            assert statements.total() <= 16 * self.CHUNKS
            assert signatures() == 10_000

    def test_workers_cost_at_most_two_transactions_a_chunk(self, ca: BulkCa, tmp_path: Path):
        commits: list[str] = []
        with closing(create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())) as ledger:
            new_order(ledger, serials("A", 5_000))
            ledger._database.set_trace_callback(lambda query: commits.append(query) if query == "COMMIT" else None)
            with closing(ca.processes(2)) as engine:
                fulfilment(ledger, engine, depth=8).run(lambda count: None)
            ledger._database.set_trace_callback(None)
            assert ledger.records.totals("a").stock == 5_000
        assert len(commits) <= 2 + self.CHUNKS


def count_signatures(issuer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count what the issuer signs from here on."""
    counted = [0]

    def counting(sign: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def count(data: bytes) -> bytes:
            counted[0] += 1
            return sign(data)

        return count

    for name in ("_sign", "_sign_sha256"):
        monkeypatch.setattr(issuer, name, counting(getattr(issuer, name)))
    return lambda: counted[0]
