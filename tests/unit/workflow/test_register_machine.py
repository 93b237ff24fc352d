"""Devices are made and end, clouds fail, programs die: nothing is lost, nothing doubled, nobody let in too early."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from birthmark.adapters.registerbook import SqliteRegisterBook
from birthmark.errors import Misconfigured
from birthmark.model.device import DeviceState
from birthmark.ports import Registration, ToldDevice
from support.clouds.memory import MemoryCloud, MemoryService
from support.registerworld import LogWorld, TestTime

SERIALS = ["a-1", "A-1", "b-2", "c-3", "d-bad", "e-never", "f-6", "g-7"]
"""Two that the cloud cannot tell apart, one that it refuses, one that it would never take."""
FAULTS = ["", "throttled", "lost", "half", "refuses"]


class Crash(BaseException):
    """The process is gone: nothing that stands behind it runs, and no handler of errors sees it."""


class Registering(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="register-"))

    @initialize()
    def begin(self) -> None:
        self.world, self.time = LogWorld(), TestTime()
        self.service = MemoryService(watch=self.hear)
        self.logged: list[ToldDevice] = []
        self.steps_left = 10**9
        self.open_book()

    def open_book(self) -> None:
        self.book = self.world.book(self.directory / "book.db")
        for name in ("turn", "fold", "mark_logged", "recover"):
            setattr(self.book, name, self.crashing(getattr(self.book, name)))

    def crashing(self, act: Any) -> Any:
        """Return the act with a place for a crash before it and one behind it."""

        def step(*arguments: Any) -> Any:
            self.step()
            result = act(*arguments)
            self.step()
            return result

        return step

    def step(self) -> None:
        self.steps_left -= 1
        if self.steps_left <= 0:
            raise Crash

    def hear(self, told: Registration) -> None:
        """The cloud hears of a device: it is let in only while it is verified, and with its own certificate."""
        self.step()
        if told.standing == "enabled":
            assert self.world.rows[told.device_serial].state is DeviceState.VERIFIED
            assert told == self.world.truth(told.device_serial)

    def note(self) -> None:
        while told := list(self.book.unlogged(3)):
            self.step()
            self.logged += told
            self.book.mark_logged(told)

    @rule(serial=st.sampled_from(SERIALS))
    def verified(self, serial: str) -> None:
        row = self.world.rows.get(serial)
        if row is None or row.state is not DeviceState.SCRAPPED:
            self.world.verify(serial)

    @rule(serial=st.sampled_from(SERIALS), how=st.sampled_from(["supersede", "scrap", "issue"]))
    def ended(self, serial: str, how: str) -> None:
        row = self.world.rows.get(serial)
        if how == "issue" and row is None:
            self.world.issue(serial)
        elif row is not None and row.state is not DeviceState.SCRAPPED and how != "issue":
            getattr(self.world, how)(serial)

    @rule()
    def published(self) -> None:
        self.world.publish()

    @rule(
        faults=st.lists(st.sampled_from(FAULTS), max_size=6),
        crash=st.one_of(st.none(), st.integers(min_value=1, max_value=40)),
        batch=st.integers(min_value=1, max_value=4),
    )
    def run(self, faults: Sequence[str], crash: int | None, batch: int) -> None:
        self.service.faults = list(faults)
        self.steps_left = 10**9 if crash is None else crash
        run = self.world.run(MemoryCloud(self.service, batch=batch), self.book, self.time, note=self.note)
        try:
            run.run()
        except Crash:
            self.steps_left = 10**9
            self.book.close()
            self.open_book()
        finally:
            self.service.faults = []
            self.steps_left = 10**9

    @rule()
    def shut_out(self) -> None:
        self.service.always = "shut"
        with suppress(Misconfigured):
            self.world.run(MemoryCloud(self.service), self.book, self.time, note=self.note).run()
        self.service.always = ""

    @rule()
    def retried(self) -> None:
        self.book.reopen(None)

    @precondition(lambda self: self.world.log)
    @rule()
    def all_is_told(self) -> None:
        """Without faults a run ends with everything told, whatever happened before it."""
        self.world.publish()
        self.book.reopen(None)  # a whole call of one device that was refused has parked it
        self.world.run(MemoryCloud(self.service, batch=3), self.book, self.time, note=self.note).run()
        counts = self.book.counts()
        assert (counts["due"], counts["asked"]) == (0, 0)
        touched = {serial for _, devices in self.world.feed().touched(0, self.world.published) for serial in devices}
        known = self.book.known(sorted(touched))
        assert set(known) == touched
        parked = {one.device_serial for one in self.book.parked("", 100)}
        assert parked <= {"a-1", "A-1", "d-bad", "e-never"}
        assert not {"a-1", "A-1"} <= parked
        for serial in touched - parked:
            truth = self.world.truth(serial, known[serial].told_seq)
            assert self.service.records[serial.lower()] == MemoryCloud(self.service).expected(truth)
        assert {one.lower() for one in touched - parked} == set(self.service.records)
        newest = {(one.device_serial, one.revision) for one in self.logged}
        for entry, devices in self.world.feed().touched(0, self.world.published):
            for serial in devices:
                later = any(
                    serial in others for _, others in self.world.feed().touched(entry + 1, self.world.published)
                )
                assert later or (serial, entry) in newest, "what was told stands in the log"

    @invariant()
    def nothing_is_doubled(self) -> None:
        if hasattr(self, "service"):
            assert self.service.made == len(self.service.records)

    def teardown(self) -> None:
        if hasattr(self, "book"):
            self.book.close()
        shutil.rmtree(self.directory, ignore_errors=True)


Registering.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRegistering = Registering.TestCase


def test_a_book_that_was_written_by_another_connection_is_read(tmp_path: Path) -> None:
    world = LogWorld()
    world.verify("a-1")
    world.publish()
    service, book = MemoryService(), world.book(tmp_path / "book.db")
    world.run(MemoryCloud(service), book, TestTime()).run()
    again = SqliteRegisterBook(tmp_path / "book.db", cloud="memory:cloud", scope="cas=* products=*")
    assert again.counts() == book.counts() == {"due": 0, "asked": 0, "settled": 1, "parked": 0}
    again.close()
    book.close()
