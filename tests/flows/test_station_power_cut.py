"""The power goes between every two steps of a provisioning: one live identity, nothing doubled, the device passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.ports import JournalRecord
from support.stationworld import BORN, POOLED, Factory, Line, build_factory, events_of


class PowerCut(BaseException):
    """Nothing in the product may catch this."""


class Fuse:
    """Blows at the n-th irreversible act."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.acts: list[str] = []

    def act(self, name: str) -> None:
        self.acts.append(name)
        self.left -= 1
        if self.left == 0:
            raise PowerCut(name)


class CutLedger:
    """A ledger that may lose its power before a transaction, inside it, and after it is durable."""

    def __init__(self, ledger: Any, fuse: Fuse) -> None:
        self._ledger, self._fuse = ledger, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self._fuse.act("before transaction")
        with self._ledger.transaction() as tx:
            yield tx
            self._fuse.act("before commit")
        self._fuse.act("after commit")


class CutJournal:
    def __init__(self, journal: Any, fuse: Fuse) -> None:
        self._journal, self._fuse = journal, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def record(self, record: JournalRecord) -> None:
        self._fuse.act(f"before journal {record.step}")
        self._journal.record(record)
        self._fuse.act(f"after journal {record.step}")


class CutTarget:
    def __init__(self, target: Any, fuse: Fuse) -> None:
        self._target, self._fuse = target, fuse

    def probe(self) -> Any:
        return self._cut("probe")

    def make_key(self, *arguments: Any) -> Any:
        return self._cut("make_key", *arguments)

    def install(self, *arguments: Any) -> Any:
        return self._cut("install", *arguments)

    def prove(self, *arguments: Any) -> Any:
        return self._cut("prove", *arguments)

    def _cut(self, name: str, *arguments: Any) -> Any:
        self._fuse.act(f"before {name}")
        result = getattr(self._target, name)(*arguments)
        self._fuse.act(f"after {name}")
        return result


def run_until_cut(factory: Factory, device_serial: str, left: int) -> Fuse | None:
    """Provision with a fuse; return None if it held."""
    fuse = Fuse(left)
    with factory.line() as line:
        ledger, journal = CutLedger(line.ledger, fuse), CutJournal(line.journal, fuse)
        target = CutTarget(line.target(device_serial), fuse)
        try:
            line.provision(device_serial, target=target, ledger=ledger, journal=journal)
        except PowerCut:
            return fuse
    return None


def assert_one_identity(line: Line, device_serial: str, *, injected: bool) -> None:
    device = line.records.device(device_serial)
    assert device is not None
    assert device.state is DeviceState.VERIFIED
    kinds = [type(event) for event in events_of(line.ledger, device_serial)]
    assert kinds.count(e.Issued) == kinds.count(e.Installed) == kinds.count(e.Verified) == 1
    assert kinds.count(e.Failed) == kinds.count(e.Superseded) == 0
    if injected:
        assert kinds.count(e.Drawn) == kinds.count(e.KeyErased) == 1
        with line.ledger.transaction() as tx:
            assert tx.vault.read(device.intent, device.position) is None
    else:
        assert kinds.count(e.Reserved) == 1
    assert line.journal is not None
    assert list(line.journal.open_attempts()) == []


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("cut") / "factory")


@pytest.mark.parametrize("device_serial", [POOLED[0], BORN[0]], ids=["pool", "born"])
def test_power_cut_at_any_act_then_the_same_command_again(factory: Factory, tmp_path: Path, device_serial: str) -> None:
    cuts = 0
    while True:
        copy = factory.copy(tmp_path / f"cut-{cuts}")
        blown = run_until_cut(copy, device_serial, cuts + 1)
        if blown is None:
            break
        cuts += 1
        with copy.line() as line:
            outcome = line.provision(device_serial)
            assert outcome.outcome in ("pass", "already"), blown.acts
            assert_one_identity(line, device_serial, injected=device_serial == POOLED[0])
    assert cuts >= 18


@pytest.mark.parametrize("device_serial", [POOLED[1], BORN[1]], ids=["pool", "born"])
def test_power_cut_twice_in_one_attempt(factory: Factory, tmp_path: Path, device_serial: str) -> None:
    for first in range(1, 26, 5):
        copy = factory.copy(tmp_path / f"cut-{first}")
        run_until_cut(copy, device_serial, first)
        for again in (9, 14, 18):
            run_until_cut(copy, device_serial, again)
        with copy.line() as line:
            line.provision(device_serial)
            assert_one_identity(line, device_serial, injected=device_serial == POOLED[1])


@pytest.mark.parametrize("failing", ["install", "prove"])
def test_power_cut_while_a_failure_is_put_on_record(factory: Factory, tmp_path: Path, failing: str) -> None:
    """A device that failed stays failed, whatever was on disk when the power went."""
    for left in range(1, 7):
        copy = factory.copy(tmp_path / f"cut-{left}")
        fail_and_cut(copy, failing, left)
        with copy.line() as line:
            state = line.records.device(POOLED[2]).state
            outcome = attempt_again(line)
            if state is DeviceState.FAILED:
                assert outcome == "device.failed"
            else:
                assert outcome in ("pass", "already")
            assert not line.journal.open_attempts()


def fail_and_cut(factory: Factory, failing: str, left: int) -> None:
    from birthmark.errors import DeviceFault

    fuse = Fuse(-1)
    with factory.line() as line:
        target: Any = line.target(POOLED[2])

        class Bad(CutTarget):
            def _cut(self, name: str, *arguments: Any) -> Any:
                if name == failing:
                    fuse.left = left
                    raise DeviceFault("device.test", "the device fails", hint="It is a test.")
                return getattr(target, name)(*arguments)

        expected: tuple[type[BaseException], ...] = (PowerCut, DeviceFault)
        with pytest.raises(expected):
            line.provision(
                POOLED[2],
                target=Bad(target, fuse),
                ledger=CutLedger(line.ledger, fuse),
                journal=CutJournal(line.journal, fuse),
            )


def attempt_again(line: Line) -> str:
    from birthmark.errors import Refused

    try:
        return line.provision(POOLED[2]).outcome
    except Refused as refusal:
        return refusal.code


def test_power_cut_in_rework_leaves_one_identity(factory: Factory, tmp_path: Path) -> None:
    """Whatever the instant, repeating the command ends with one fresh pooled identity and the old one revoked."""
    cuts = 0
    while True:
        copy = factory.copy(tmp_path / f"cut-{cuts}")
        with copy.line() as line:
            line.provision(POOLED[3])
            if not is_cut(line, Fuse(cuts + 1)):
                break
        cuts += 1
        with copy.line() as line:
            device = line.records.device(POOLED[3])
            if device.state is not DeviceState.POOLED:
                rework(line, Fuse(-1))
            device = line.records.device(POOLED[3])
            assert device.state is DeviceState.POOLED
            kinds = [type(event) for event in events_of(line.ledger, POOLED[3])]
            assert kinds.count(e.Superseded) == kinds.count(e.Revoked) == 1
            assert kinds.count(e.Issued) == 2
    assert cuts == 6


def is_cut(line: Line, fuse: Fuse) -> bool:
    try:
        rework(line, fuse)
    except PowerCut:
        return True
    return False


def rework(line: Line, fuse: Fuse) -> None:
    line.reworks(CutLedger(line.ledger, fuse)).rework(POOLED[3], reason="power test", by="tester")  # type: ignore[arg-type]
