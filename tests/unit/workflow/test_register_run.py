"""One run for one cloud: paced, patient, resumable at every step, and sparing with calls and transactions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from birthmark.errors import Misconfigured, Tampered, Unavailable
from birthmark.ports import DueDevice, ToldDevice
from birthmark.workflow.register.pace import Pace
from support.clouds.memory import MemoryCloud, MemoryService
from support.registerworld import LogWorld, TestTime


class Crash(BaseException):
    """The process is gone."""


@pytest.fixture
def world() -> LogWorld:
    made = LogWorld()
    for number in range(23):
        made.verify(f"unit-{number:03d}")
    made.publish()
    return made


def told_once(service: MemoryService) -> bool:
    return set(Counter(one.device_serial for one in service.heard).values()) == {1}


def test_a_run_ends_with_everything_told_once(world: LogWorld, tmp_path: Path) -> None:
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    counts = world.run(MemoryCloud(service), book, TestTime()).run()
    assert counts.outcomes == {"done": 23}
    assert told_once(service)
    assert book.counts() == {"due": 0, "asked": 0, "settled": 23, "parked": 0}
    again = world.run(MemoryCloud(service), book, TestTime()).run()
    assert (again.calls, again.outcomes.total(), service.calls) == (0, 0, 5)


@pytest.mark.parametrize("at", range(1, 56))
def test_a_crash_at_any_step_loses_nothing_and_doubles_nothing(world: LogWorld, tmp_path: Path, at: int) -> None:
    service, path, logged = MemoryService(), tmp_path / "book.db", list[ToldDevice]()
    left = [at]

    def step() -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Crash

    def crashing(act: Any) -> Any:
        def stepping(*arguments: Any) -> Any:
            step()
            result = act(*arguments)
            step()
            return result

        return stepping

    def note(book: Any) -> None:
        while told := list(book.unlogged(4)):
            step()
            logged.extend(told)
            book.mark_logged(told)

    service.watch = lambda registration: step()
    book = world.book(path)
    for name in ("turn", "fold", "mark_logged", "recover"):
        setattr(book, name, crashing(getattr(book, name)))
    crashed = False
    try:
        world.run(MemoryCloud(service), book, TestTime(), note=lambda: note(book)).run()
    except Crash:
        crashed = True
    assert crashed
    book.close()
    left[0] = 10**9
    book = world.book(path)
    counts = world.run(MemoryCloud(service), book, TestTime(), note=lambda: note(book)).run()
    assert book.counts() == {"due": 0, "asked": 0, "settled": 23, "parked": 0}
    assert len(service.records) == service.made == 23
    assert {one.device_serial for one in logged} == set(world.rows)
    assert counts.repeated <= 10, "at most one round is told again"
    book.close()


def test_a_device_that_was_asked_and_not_settled_is_asked_again(world: LogWorld, tmp_path: Path) -> None:
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    world.run(MemoryCloud(service), book, TestTime(), stop=lambda: True).run()
    taken = book.turn((), 4)
    assert [one.device_serial for one in taken] == ["unit-000", "unit-001", "unit-002", "unit-003"]
    counts = world.run(MemoryCloud(service), book, TestTime()).run()
    assert (counts.repeated, counts.repeated_calls, counts.outcomes["done"]) == (4, 1, 23)


def test_calls_are_spread_as_the_limits_say(world: LogWorld, tmp_path: Path) -> None:
    service, time = MemoryService(), TestTime()
    began = time.now
    counts = world.run(MemoryCloud(service, batch=1, lanes=1), world.book(tmp_path / "b"), time).run()
    assert counts.calls == service.calls == 23
    assert time.now - began == pytest.approx(22 * 60 / 600 - 1, abs=0.01), "one second's calls may come at once"


def test_a_cloud_that_asks_to_be_left_alone_is_left_alone(world: LogWorld, tmp_path: Path) -> None:
    service, time = MemoryService(faults=["throttled"]), TestTime()
    counts = world.run(MemoryCloud(service, lanes=1), world.book(tmp_path / "b"), time).run()
    assert (counts.back_offs, counts.outcomes["done"]) == (1, 23)
    assert max(time.slept) >= 3
    assert told_once(service)


def test_a_lost_answer_is_told_again_and_is_the_same(world: LogWorld, tmp_path: Path) -> None:
    service = MemoryService(faults=["lost", "half"])
    counts = world.run(MemoryCloud(service, lanes=1), world.book(tmp_path / "b"), TestTime()).run()
    assert counts.outcomes == {"done": 18, "same": 5}
    assert service.made == 23


def test_nobody_is_parked_for_a_bad_network_and_patience_ends(world: LogWorld, tmp_path: Path) -> None:
    service, book, time = MemoryService(always="lost"), world.book(tmp_path / "book.db"), TestTime()
    service.always = "throttled"
    with pytest.raises(Unavailable):
        world.run(MemoryCloud(service), book, time, patience_s=120.0).run()
    assert 120 <= time.now - 1000 < 200
    assert book.counts() == {"due": 23, "asked": 0, "settled": 0, "parked": 0}
    service.always = ""
    assert world.run(MemoryCloud(service), book, time).run().outcomes["done"] == 23


def test_silence_is_answered_with_growing_pauses(tmp_path: Path) -> None:
    time = TestTime()
    pace = Pace(600.0, time.clock, time.sleep, lambda count: b"\xff" * count)
    assert [pace.back_off(None) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    pace.answered()
    assert pace.back_off(None) == 1
    least = Pace(600.0, time.clock, time.sleep, lambda count: bytes(count))
    assert [least.back_off(None) for _ in range(3)] == [0.5, 1, 2]
    assert least.back_off(10**9) == 3600, "a cloud is a stranger"
    assert least.back_off(-5) == 0


def test_who_is_not_let_in_stops_at_once_and_nothing_is_parked(world: LogWorld, tmp_path: Path) -> None:
    service, book = MemoryService(faults=["", "shut"]), world.book(tmp_path / "book.db")
    with pytest.raises(Misconfigured, match=r"cloud\.credentials"):
        world.run(MemoryCloud(service, lanes=2), book, TestTime()).run()
    assert book.counts() == {"due": 18, "asked": 0, "settled": 5, "parked": 0}
    assert service.calls == 2


def test_a_whole_call_that_is_refused_is_told_one_by_one(world: LogWorld, tmp_path: Path) -> None:
    service, book = MemoryService(faults=["refuses", "", "", "refuses"]), world.book(tmp_path / "book.db")
    counts = world.run(MemoryCloud(service, lanes=1), book, TestTime()).run()
    assert counts.outcomes == {"done": 22, "refused": 1}
    (parked,) = book.parked("", 10)
    assert (parked.device_serial, parked.code, parked.tries) == ("unit-002", "cloud.call.refused", 1)
    assert "retry" in parked.hint or parked.hint
    assert book.reopen(None) == 1
    assert world.run(MemoryCloud(service), book, TestTime()).run().outcomes == {"done": 1}


def test_poison_is_parked_with_its_reason_and_the_run_goes_on(world: LogWorld, tmp_path: Path) -> None:
    for serial in ("x-bad", "x-never", "UNIT-001"):
        world.verify(serial)
    world.publish()
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    counts = world.run(MemoryCloud(service), book, TestTime()).run()
    assert counts.outcomes == {"done": 23, "refused": 3}
    codes = {one.device_serial: one.code for one in book.parked("", 10)}
    assert codes == {
        "UNIT-001": "register.record.taken",
        "x-bad": "cloud.record.refused",
        "x-never": "cloud.name",
    }
    assert not [one for one in service.heard if one.device_serial in ("x-never", "UNIT-001")], "never sent"


def test_what_ended_since_it_was_read_is_told_as_ended(world: LogWorld, tmp_path: Path) -> None:
    world.supersede("unit-003")
    world.verify("unit-004")
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    world.run(MemoryCloud(service), book, TestTime()).run()
    assert service.records["unit-003"].standing == "blocked"
    assert (
        service.records["unit-004"].certificates == MemoryCloud(service).expected(world.truth("unit-004")).certificates
    )
    world.publish()
    counts = world.run(MemoryCloud(service), book, TestTime()).run()
    assert counts.outcomes == {"same": 2}, "their own entries are read afterwards"


def test_a_verified_device_with_a_revoked_certificate_is_let_in_no_more(world: LogWorld, tmp_path: Path) -> None:
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    world.run(MemoryCloud(service), book, TestTime()).run()
    world.revoke("unit-002")
    world.publish()
    counts = world.run(MemoryCloud(service), book, TestTime()).run()
    assert counts.outcomes == {"done": 1}
    assert service.records["unit-002"].standing == "blocked"
    assert service.records["unit-002"].certificates, "still named by its certificate"


def test_a_newer_entry_opens_what_is_settled_and_what_is_parked(world: LogWorld, tmp_path: Path) -> None:
    world.verify("x-bad")
    world.publish()
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    world.run(MemoryCloud(service), book, TestTime()).run()
    world.supersede("unit-001")
    world.supersede("x-bad")
    world.publish()
    counts = world.run(MemoryCloud(service), book, TestTime()).run()
    assert counts.outcomes == {"done": 1, "refused": 1}
    told_with = [one.certificates for one in service.heard if one.device_serial == "unit-001"]
    assert told_with[0] == told_with[1] != (), "it is blocked with the certificate that it was let in with"


def test_settling_an_older_revision_changes_nothing(world: LogWorld, tmp_path: Path) -> None:
    book = world.book(tmp_path / "book.db")
    world.run(MemoryCloud(MemoryService()), book, TestTime(), stop=lambda: True).run()
    (due,) = book.turn((), 1)
    from birthmark.ports import Settlement

    old = DueDevice(due.device_serial, due.revision - 1, 1, None)
    book.turn([Settlement(old, "done")], 0)
    assert book.known([due.device_serial])[due.device_serial].state == "asked"
    book.turn([Settlement(due, "done")], 0)
    assert book.known([due.device_serial])[due.device_serial].state == "settled"


def test_another_log_stops_the_run(world: LogWorld, tmp_path: Path) -> None:
    book = world.book(tmp_path / "book.db")
    world.run(MemoryCloud(MemoryService()), book, TestTime()).run()
    world.log[0] = world.log[2]
    with pytest.raises(Tampered, match=r"cursor\.forked"):
        world.run(MemoryCloud(MemoryService()), book, TestTime()).run()


def test_an_adapter_that_answers_for_others_is_a_defect(world: LogWorld, tmp_path: Path) -> None:
    class Confused(MemoryCloud):
        def tell(self, registrations: Any) -> Any:
            return list(reversed(super().tell(registrations)))

    with pytest.raises(ValueError, match="other devices"):
        world.run(Confused(MemoryService()), world.book(tmp_path / "b"), TestTime()).run()


def test_stopped_it_settles_what_it_asked(world: LogWorld, tmp_path: Path) -> None:
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    counts = world.run(MemoryCloud(service), book, TestTime(), stop=lambda: service.calls >= 3).run()
    assert counts.stopped
    found = book.counts()
    assert found["asked"] == 0
    assert found["settled"] == len(service.records) == counts.outcomes["done"] < 23


def test_the_budget_of_ten_thousand_devices(tmp_path: Path) -> None:
    """Calls, transactions and fsyncs grow with rounds, not with devices."""
    world = LogWorld()
    for number in range(10_000):
        world.verify(f"unit-{number:05d}")
    world.publish()
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    statements: Counter[str] = Counter()
    book._database.set_trace_callback(lambda sql: statements.update([sql.split()[0]]))
    counts = world.run(MemoryCloud(service, batch=10, lanes=4), book, TestTime()).run()
    assert counts.outcomes == {"done": 10_000}
    assert counts.calls == service.calls == 1000
    assert statements["COMMIT"] <= 250 + 8, "one transaction a round of four calls of ten"


def test_a_cloud_with_large_batches_does_not_ask_for_more_than_the_tables_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, sizes = LogWorld(), list[int]()
    for number in range(1500):
        world.verify(f"unit-{number:05d}")
    world.publish()
    book = world.book(tmp_path / "book.db")
    for owner, name in ((world, "devices"), (book, "holders")):
        ask = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda items, ask=ask: sizes.append(len(items)) or ask(items))
    counts = world.run(MemoryCloud(MemoryService(), batch=1500, lanes=1), book, TestTime()).run()
    assert (counts.calls, counts.outcomes["done"]) == (1, 1500)
    assert max(sizes) <= 400
