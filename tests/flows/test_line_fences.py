"""A step that wakes up after its deadline, or after its head was given up, burns nothing and records nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from birthmark.errors import DeviceFault, Refused, Tampered, Unavailable
from birthmark.model.device import DeviceState
from birthmark.shell.line.headruns import DeviceRuns
from birthmark.workflow.line.fence import DeadlineFence
from support.stationworld import BORN, POOLED, Factory, Line, build_factory, events_of

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("fences") / "factory")


@pytest.fixture
def line(built: Factory, tmp_path: Path) -> Iterator[Line]:
    with built.copy(tmp_path / "factory").line() as opened:
        yield opened


class Sleeper:
    """A device that falls asleep in one step; ``wake`` ends that. ``late``: what happens when it wakes up."""

    def __init__(self, target: Any, step: str, late: Callable[[], None], *, acts_first: bool) -> None:
        self._target, self._step, self._late, self._acts_first = target, step, late, acts_first
        self.asleep, self.wake = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._target, name)
        if name != self._step:
            return call

        def sleeping(*arguments: Any) -> Any:
            done = call(*arguments) if self._acts_first else None
            self.asleep.set()
            assert self.wake.wait(PATIENCE_S)
            self._late()
            return done if self._acts_first else call(*arguments)

        return sleeping


def fence_of(seconds: float) -> DeadlineFence:
    return DeadlineFence("t", seconds=seconds, monotonic=time.monotonic, lock=threading.Lock())


def nothing() -> None:
    return


def device_fault() -> None:
    raise DeviceFault("device.test", "too late", hint="It is a test.")


def tampered() -> None:
    raise Tampered("device.test", "too late", hint="It is a test.")


def refused() -> None:
    raise Refused("device.test", "too late", hint="It is a test.")


def everything(line: Line, device_serial: str) -> object:
    """What device, ledger and journal hold."""
    directory = line.factory.root / "out" / device_serial
    files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
    return files, line.ledger.head().size, (line.factory.root / "line-1.jsonl").read_bytes()


@contextmanager
def given_up(line: Line, device_serial: str, sleeper: Sleeper, *, by: str) -> Iterator[threading.Thread]:
    """Run a device that falls asleep until it is given up; yield the thread that is still in its step."""
    runs, fence = DeviceRuns(), fence_of(0.3 if by == "station.deadline" else PATIENCE_S)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            runs.run(
                device_serial,
                fence,
                lambda: line.provision(device_serial, target=sleeper, fence=fence),  # type: ignore[arg-type]
            )
        except BaseException as problem:  # noqa: BLE001
            caught.append(problem)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert sleeper.asleep.wait(PATIENCE_S)
    if by == "station.fenced":
        runs.give_up()
    waiting.join(PATIENCE_S)
    assert [getattr(problem, "code", problem) for problem in caught] == [by]
    (left,) = [thread for thread in threading.enumerate() if thread.name == f"device {device_serial}"]
    yield left
    sleeper.wake.set()
    left.join(PATIENCE_S)
    assert not left.is_alive()


@pytest.mark.parametrize("late", [nothing, device_fault, tampered, refused])
@pytest.mark.parametrize("acts_first", [True, False], ids=["acted", "not-yet"])
@pytest.mark.parametrize("step", ["probe", "make_key", "install", "prove"])
def test_a_step_that_wakes_up_after_it_was_given_up_changes_nothing_any_more(
    line: Line, step: str, acts_first: bool, late: Callable[[], None]
) -> None:
    serial = BORN[0] if step == "make_key" else POOLED[0]
    sleeper = Sleeper(line.target(serial), step, late, acts_first=acts_first)
    with given_up(line, serial, sleeper, by="station.fenced"):
        before = everything(line, serial)
    assert everything(line, serial) == before
    assert line.records.device(serial).state is not DeviceState.FAILED
    outcome = line.provision(serial)
    assert outcome.outcome == "pass"
    assert not line.journal.open_attempts()
    kinds = [type(event).__name__ for event in events_of(line.ledger, serial)]
    assert kinds.count("Verified") == 1
    assert kinds.count("Issued") == 1
    assert "Failed" not in kinds


@pytest.mark.parametrize("serial", [POOLED[1], BORN[1]], ids=["pool", "born"])
def test_a_deadline_leaves_an_attempt_that_goes_on(line: Line, serial: str) -> None:
    sleeper = Sleeper(line.target(serial), "install", nothing, acts_first=False)
    with given_up(line, serial, sleeper, by="station.deadline"):
        (left_open,) = line.journal.open_attempts()
        assert left_open.step == "installing"
        assert "device.crt" not in everything(line, serial)[0]  # type: ignore[index]
    assert "device.crt" not in everything(line, serial)[0]  # type: ignore[index]
    assert line.provision(serial).attempt == left_open.attempt


def test_a_source_that_answers_too_late_leads_to_nothing(line: Line) -> None:
    class SlowSource:
        def __init__(self, source: Any) -> None:
            self._source = source

        def obtain(self, request: Any) -> Any:
            credential = self._source.obtain(request)
            time.sleep(0.3)
            return credential

    with pytest.raises(Unavailable) as caught:
        line.provision(POOLED[2], source=SlowSource(line.source()), fence=fence_of(0.25))
    assert caught.value.code == "station.deadline"
    assert not list((line.factory.root / "out" / POOLED[2]).iterdir())
    assert line.provision(POOLED[2]).outcome == "pass"


def test_who_gives_up_while_the_device_is_put_on_record_gets_what_was_decided(line: Line) -> None:
    """Taking the right away waits for the commit that is under way: afterwards nobody is in doubt."""
    inside, go_on = threading.Event(), threading.Event()

    class SlowLedger:
        def __init__(self, ledger: Any) -> None:
            self._ledger = ledger

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ledger, name)

        @contextmanager
        def transaction(self) -> Iterator[Any]:
            with self._ledger.transaction() as tx:
                yield tx
                if line.records.device(POOLED[3]).state is DeviceState.DRAWN:
                    inside.set()
                    assert go_on.wait(PATIENCE_S)

    runs, fence, got = DeviceRuns(), fence_of(PATIENCE_S), []

    def wait() -> None:
        ledger = SlowLedger(line.ledger)
        got.append(runs.run(POOLED[3], fence, lambda: line.provision(POOLED[3], ledger=ledger, fence=fence)))

    waiting, giving_up = threading.Thread(target=wait), threading.Thread(target=runs.give_up)
    waiting.start()
    assert inside.wait(PATIENCE_S)
    giving_up.start()
    time.sleep(0.05)
    assert giving_up.is_alive(), "it must not say that it is over while it is being decided"
    go_on.set()
    for thread in (waiting, giving_up):
        thread.join(PATIENCE_S)
    assert [outcome.outcome for outcome in got] == ["pass"]
    assert line.records.device(POOLED[3]).state is DeviceState.VERIFIED


def test_a_fence_says_why_it_holds_no_more() -> None:
    now = [0.0]
    fence = DeadlineFence("t", seconds=2, monotonic=lambda: now[0])
    fence.hold()
    assert fence.remaining() == 2
    now[0] = 1.5
    fence.revoke()
    with pytest.raises(Unavailable) as caught, fence.deciding():
        raise AssertionError("nothing is decided without the right")
    assert (caught.value.code, fence.remaining()) == ("station.fenced", 0)
    now[0] = 2.0
    with pytest.raises(Unavailable) as caught:
        fence.hold()
    assert caught.value.code == "station.deadline"


def test_nothing_begins_at_a_station_that_was_given_up() -> None:
    runs, begun = DeviceRuns(), []
    runs.give_up()
    with pytest.raises(Unavailable) as caught:
        runs.run("SN-1", fence_of(5), lambda: begun.append(1))
    assert (caught.value.code, begun) == ("station.fenced", [])
