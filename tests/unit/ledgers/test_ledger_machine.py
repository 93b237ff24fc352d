"""Any sequence of steps, lawful or not, against a simple model: tables, log, totals and heads never disagree."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from birthmark.adapters.ledgers.sql import keyruns
from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.adapters.logstore import FileLogStore
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.tlog.merkle import EMPTY_ROOT, Frontier, node_hash
from birthmark.tlog.tiles import Tile, load_entries
from birthmark.workflow.log.publish import LogPublication
from support.ledger import ORIGIN, Author, TestClock, create_sqlite, make_records, serials

CHUNK = 3
PICK = st.integers(0, 10_000)
# What the drawing in docs/flow.md says, written down once more.
STEPS = {
    "draw": ({"pooled"}, "drawn"),
    "install": ({"drawn", "issued"}, "installed"),
    "verify": ({"installed"}, "verified"),
    "fail": ({"reserved", "issued", "pooled", "drawn", "installed"}, "failed"),
    "supersede": ({"failed", "issued", "pooled", "drawn", "installed", "verified"}, "ordered"),
    "scrap": ({"ordered", "reserved", "issued", "pooled", "drawn", "installed", "verified", "failed"}, "scrapped"),
}


@dataclass
class Chunk:
    order: str
    number: int
    devices: list[str]
    origin: str
    state: str = "ordered"
    intent: int | None = None


@dataclass
class Device:
    name: str
    chunk: Chunk
    place: int
    own: str | None = None
    intent: int | None = None
    position: int | None = None
    attempt: str | None = None

    @property
    def state(self) -> str:
        if self.own is not None:
            return self.own
        if self.chunk.state == "issued":
            return "pooled"
        return self.chunk.state

    @property
    def in_chunk(self) -> bool:
        return self.own is None and self.chunk.state != "issued"

    def touch(self, state: str) -> None:
        if self.own is None and self.chunk.intent is not None:
            self.intent, self.position = self.chunk.intent, self.place
        self.own = state


@dataclass
class Model:
    chunks: list[Chunk] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    singles: dict[int, Device] = field(default_factory=dict)
    """Open reservations of one."""
    keys: list[bytes] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    published: int = 0


def slow_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(slow_root(leaves[:split]), slow_root(leaves[split:]))


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        keyruns._FLUSH_AT = 8
        self.root = Path(tempfile.mkdtemp(prefix="ledger-machine-"))
        self.clock, self.model = TestClock(), Model()
        self.author = Author(create_sqlite(self.root / "ledger" / "ledger.db", self.clock))
        self.key, self.sizes = Ed25519PrivateKey.generate(), [1]

    def teardown(self) -> None:
        self.publish()
        self.check_publication()
        self.author.ledger.close()
        shutil.rmtree(self.root)
        keyruns._FLUSH_AT = 1 << 18

    # ---- helpers

    def refused(self, act: str, *arguments: object, **named: object) -> None:
        """Do what is unlawful: it is refused, and nothing changes."""
        head = self.author.ledger.head()
        try:
            getattr(self.author, act)(*arguments, **named)
        except Refused:
            assert self.author.ledger.head() == head
        else:
            raise AssertionError(f"{act} {arguments} was not refused")

    def records(self, count: int) -> bytes:
        records = make_records(count)
        self.model.keys.append(records[:72])
        return records

    def attempt(self, fresh: bool, pick: int) -> str:
        if fresh or not self.model.attempts:
            return f"attempt-{len(self.model.attempts)}-{pick}"
        return self.model.attempts[pick % len(self.model.attempts)]

    # ---- rules

    @rule(count=st.integers(1, 7), born=st.booleans(), double=st.integers(0, 9))
    def order(self, count: int, born: bool, double: int) -> None:
        name = f"o{len(self.model.chunks)}"
        devices, origin = serials(name, count), "device" if born else "injected"
        if double == 0 and self.model.devices:
            self.refused("order", name, [*devices, self.model.devices[-1].name], origin=origin, chunk=CHUNK)
            return
        self.author.order(name, devices, origin=origin, chunk=CHUNK)  # type: ignore[arg-type]
        for number, at in enumerate(range(0, count, CHUNK)):
            chunk = Chunk(name, number, devices[at : at + CHUNK], origin)
            self.model.chunks.append(chunk)
            self.model.devices += [Device(device, chunk, place) for place, device in enumerate(chunk.devices)]

    @precondition(lambda self: self.model.chunks)
    @rule(pick=PICK, reuse=st.integers(0, 7))
    def reserve_chunk(self, pick: int, reuse: int) -> None:
        chunk = self.model.chunks[pick % len(self.model.chunks)]
        records = self.records(len(chunk.devices))
        arguments = {"chunk": chunk.number, "count": len(chunk.devices)}
        if reuse == 0 and len(self.model.keys) > 1:
            self.model.keys.pop()
            records = self.model.keys[0] + records[72:]
            self.refused("reserve", chunk.order, records=records, **arguments)
        elif chunk.state != "ordered" or chunk.origin == "device":
            self.model.keys.pop()
            self.refused("reserve", chunk.order, records=records, **arguments)
        else:
            chunk.intent = self.author.reserve(chunk.order, records=records, **arguments)
            chunk.state = "reserved"

    @precondition(lambda self: any(chunk.intent for chunk in self.model.chunks))
    @rule(pick=PICK, good=st.integers(0, 3))
    def end_chunk(self, pick: int, good: int) -> None:
        chunks = [chunk for chunk in self.model.chunks if chunk.intent]
        chunk = chunks[pick % len(chunks)]
        assert chunk.intent is not None
        if chunk.state == "issued":
            self.refused("abandon", chunk.intent)
            self.refused("issue_chunk", chunk.intent, chunk.devices)
        elif good:
            self.author.issue_chunk(chunk.intent, chunk.devices)
            chunk.state = "issued"
        else:
            self.author.abandon(chunk.intent)
            chunk.state, chunk.intent = "ordered", None

    @precondition(lambda self: self.model.devices)
    @rule(pick=PICK, fresh=st.booleans())
    def reserve_device(self, pick: int, fresh: bool) -> None:
        device = self.model.devices[pick % len(self.model.devices)]
        attempt = self.attempt(fresh, pick)
        lawful = device.state == "ordered" and not (device.in_chunk and device.chunk.origin == "injected")
        if not lawful or attempt in self.model.attempts:
            self.refused("reserve", device.chunk.order, device=device.name, attempt=attempt)
            return
        intent = self.author.reserve(device.chunk.order, device=device.name, attempt=attempt, records=self.records(1))
        self.model.attempts.append(attempt)
        self.model.singles[intent] = device
        device.own, device.intent, device.position, device.attempt = "reserved", intent, 0, attempt

    @precondition(lambda self: self.model.singles)
    @rule(pick=PICK, good=st.integers(0, 2))
    def end_device(self, pick: int, good: int) -> None:
        intent = list(self.model.singles)[pick % len(self.model.singles)]
        device = self.model.singles[intent]
        if device.intent != intent or device.state != "reserved":
            self.refused("issue", intent, device.name)
            self.refused("abandon", intent)
            return
        del self.model.singles[intent]
        if good:
            self.author.issue(intent, device.name, vault=device.chunk.origin == "injected")
            device.own = "pooled" if device.chunk.origin == "injected" else "issued"
        else:
            self.author.abandon(intent)
            device.own, device.intent, device.position, device.attempt = "ordered", None, None, None

    @precondition(lambda self: self.model.devices)
    @rule(pick=PICK, step=st.sampled_from(["draw", "install", "verify", "draw", "install", "verify", *STEPS]),
          other=st.integers(0, 5))  # fmt: skip
    def step(self, pick: int, step: str, other: int) -> None:
        before, after = STEPS[step]
        devices = [device for device in self.model.devices if device.state in before]
        if other == 0:
            devices = self.model.devices
        elif other == 3:
            devices = [device for device in self.model.devices if device.in_chunk]
        if not devices:
            return
        device = devices[pick % len(devices)]
        taken = device.attempt if step != "draw" else None
        attempt = taken if taken and other != 1 else self.attempt(other != 2, pick)
        arguments: list[object] = [device.name]
        if step not in ("supersede", "scrap"):
            arguments.append(attempt)
        if step == "verify":
            arguments += [device.intent or 0, device.position or 0]
        unmade = device.in_chunk and (step != "scrap" or device.chunk.origin == "injected")
        lawful = device.state in before and not unmade
        if step in ("install", "verify", "fail"):
            lawful = lawful and device.attempt in (None, attempt)
        if step == "draw":
            lawful = lawful and attempt not in self.model.attempts
        if not lawful:
            self.refused(step, *arguments)
            return
        getattr(self.author, step)(*arguments)
        device.touch(after)
        if step == "draw":
            self.model.attempts.append(attempt)
        if step == "supersede":
            device.intent = device.position = device.attempt = None
        elif step != "scrap":
            device.attempt = attempt

    @rule(back=st.integers(-5_000, 5_000))
    def take_prefixes(self, back: int) -> None:
        self.clock.move(milliseconds=back)
        with self.author.ledger.transaction() as tx:
            self.model.prefixes += tx.serial_prefixes(1 + abs(back) % 3)

    @rule()
    def reopen(self) -> None:
        path = self.author.ledger.path
        self.author.ledger.close()
        self.author.ledger = SqliteLedger(path, clock=self.clock)

    @rule()
    def publish(self) -> None:
        store = FileLogStore(self.root / "log")
        self.model.published = LogPublication(self.author.ledger, store, origin=ORIGIN, key=self.key).publish()

    # ---- what always holds

    @invariant()
    def the_tables_are_the_fold_and_the_model(self) -> None:
        if not hasattr(self, "author"):
            return
        ledger = self.author.ledger
        replay_ledger(ledger, progress=lambda count: None)
        for device in self.model.devices:
            found = ledger.records.device(device.name)
            in_force = device.chunk.intent if device.own is None else device.intent
            assert (str(found.state), found.attempt, found.intent) == (device.state, device.attempt, in_force), device
        for order in {chunk.order for chunk in self.model.chunks}:
            states = Counter(device.state for device in self.model.devices if device.chunk.order == order)
            totals = ledger.records.totals(order)
            assert totals.ordered == states.total() == ledger.records.order(order).quantity
            assert totals.open == states["ordered"] + states["reserved"]
            assert totals.in_progress == states["issued"] + states["drawn"] + states["installed"]
            ends = (totals.stock, totals.verified, totals.failed, totals.scrapped)
            assert ends == tuple(states[name] for name in ("pooled", "verified", "failed", "scrapped"))

    @invariant()
    def the_log_holds_what_was_acknowledged(self) -> None:
        if not hasattr(self, "author"):
            return
        ledger = self.author.ledger
        entries = dict(ledger.entries(0, 1 << 30))
        head = ledger.head()
        assert list(entries) == list(range(head.size))
        assert all(entries[seq] == entry for seq, entry in self.author.said)
        assert len(entries) == len(self.author.said) + 1
        leaves = [sha256(b"\0" + entry).digest() for entry in entries.values()]
        assert ledger.leaf_hashes(0, head.size) == b"".join(leaves)
        assert Frontier().extend(leaves).root() == slow_root(leaves)
        self.sizes.append(head.size)
        assert self.sizes[-2] <= head.size
        assert head.published == self.model.published
        assert self.model.prefixes == sorted(set(self.model.prefixes))
        live = Counter(
            (event.device, event.intent)
            for event in (e.decode_entry(entry)[0] for entry in entries.values())
            if isinstance(event, e.Issued)
        )
        assert not live or max(live.values()) == 1

    def check_publication(self) -> None:
        ledger, store = self.author.ledger, FileLogStore(self.root / "log")
        shown = LogPublication(ledger, store, origin=ORIGIN, key=self.key).shown()
        assert shown is not None
        entries = [entry for _, entry in ledger.entries(0, shown.size)]
        assert shown.size == ledger.head().size == len(entries)
        assert shown.root == slow_root([sha256(b"\0" + entry).digest() for entry in entries])
        tiles = [Tile(-1, at // 256, min(256, shown.size - at)) for at in range(0, shown.size, 256)]
        assert [entry for tile in tiles for entry in load_entries(tile, store.read)] == entries


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=45,
    # Making a failure smaller takes minutes; the steps that led to it are shown as they were.
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
