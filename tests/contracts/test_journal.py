"""The laws of ``ports.Journal`` on the file journal: what was acknowledged is there after anything."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from birthmark.adapters.journal import FileJournal
from birthmark.errors import BirthmarkError, Refused, StationFault, Tampered
from birthmark.ports import JournalRecord


def entry(number: int, step: str = "install", device: str | None = None) -> JournalRecord:
    return JournalRecord(f"attempt-{number:04d}", device or f"SN-{number}", step, f"files:dut/{number}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "station-1.jsonl"


def filled(path: Path, count: int) -> list[bytes]:
    with FileJournal(path) as journal:
        for number in range(count):
            journal.record(entry(number))
    return path.read_bytes().splitlines(keepends=True)


def test_last_record_of_a_device_is_found_again_after_a_restart(path: Path) -> None:
    with FileJournal(path) as journal:
        assert journal.last("SN-1") is None
        journal.record(entry(1, "obtain"))
        journal.record(entry(2, "obtain"))
        journal.record(entry(1, "install"))
        assert journal.last("SN-1") == entry(1, "install")
    with FileJournal(path) as journal:
        assert journal.last("SN-1") == entry(1, "install")
        assert journal.last("SN-2") == entry(2, "obtain")
        assert journal.last("SN-3") is None


def test_open_attempts_leave_out_what_is_done_or_void(path: Path) -> None:
    with FileJournal(path) as journal:
        for number, step in ((1, "obtain"), (2, "obtain"), (3, "obtain"), (2, "done"), (3, "void"), (1, "install")):
            journal.record(entry(number, step))
        assert list(journal.open_attempts()) == [entry(1, "install")]
    with FileJournal(path) as journal:
        assert list(journal.open_attempts()) == [entry(1, "install")]


def test_two_attempts_on_one_device_are_two_open_attempts(path: Path) -> None:
    with FileJournal(path) as journal:
        journal.record(entry(1, "install", "SN-X"))
        journal.record(entry(2, "obtain", "SN-X"))
        assert list(journal.open_attempts()) == [entry(1, "install", "SN-X"), entry(2, "obtain", "SN-X")]
        assert journal.last("SN-X") == entry(2, "obtain", "SN-X")


def test_line_breaks_and_nul_in_a_target_stay_one_line(path: Path) -> None:
    record = JournalRecord("attempt-0001", "SN-1", "install", 'files:a\n\r\0"\u2028b')
    with FileJournal(path) as journal:
        journal.record(record)
    assert path.read_bytes().count(b"\n") == 1
    assert b"\0" not in path.read_bytes()
    with FileJournal(path) as journal:
        assert journal.last("SN-1") == record


def test_text_that_is_not_unicode_is_refused_and_the_journal_goes_on(path: Path) -> None:
    with FileJournal(path) as journal:
        with pytest.raises(Refused) as caught:
            journal.record(JournalRecord("attempt-0001", "SN-\udc80", "install", "files:x"))
        assert caught.value.code == "journal.record.malformed"
        journal.record(entry(1))


def test_every_cut_of_the_file_keeps_all_whole_lines(path: Path) -> None:
    lines = filled(path, 3)
    data = b"".join(lines)
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        with FileJournal(path) as journal:
            whole = data[:length].count(b"\n")
            assert [record.attempt for record in journal.open_attempts()] == [f"attempt-{n:04d}" for n in range(whole)]
            journal.record(entry(9))
        with FileJournal(path) as journal:
            assert len(journal.open_attempts()) == whole + 1


def test_a_damaged_last_line_is_ignored_and_written_over(path: Path) -> None:
    lines = filled(path, 3)
    path.write_bytes(lines[0] + lines[1] + lines[2].replace(b"SN-2", b"SN-7"))
    with FileJournal(path) as journal:
        assert len(journal.open_attempts()) == 2
        journal.record(entry(5))
    with FileJournal(path) as journal:
        assert [record.device_serial for record in journal.open_attempts()] == ["SN-0", "SN-1", "SN-5"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [lines[0], lines[1].replace(b"SN-1", b"SN-7"), lines[2], lines[3]],
        lambda lines: [lines[0], bytes(len(lines[1]) - 1) + b"\n", lines[2], lines[3]],
        lambda lines: [lines[0], lines[1].upper(), lines[2].upper(), lines[3].upper()],
        lambda lines: [lines[0], lines[2], lines[3]],
        lambda lines: [lines[0], b"\n", lines[1], lines[2]],
        lambda lines: [lines[1], lines[2], lines[3]],
        lambda lines: [lines[0], b"0" * 8 + lines[1][8:], lines[2], b"torn"],
    ],
    ids=["bit", "zeros", "many", "deleted", "blank", "beheaded", "bit-and-tear"],
)
def test_damage_before_the_last_line_stops_the_station(path: Path, spoil) -> None:
    path.write_bytes(b"".join(spoil(filled(path, 4))))
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(Tampered) as caught:
            FileJournal(path)
        assert caught.value.code == "journal.corrupt"
    assert path.read_bytes() == before


def test_second_process_on_the_same_journal_is_turned_away(path: Path) -> None:
    program = f"""
from pathlib import Path
from birthmark.adapters.journal import FileJournal
from birthmark.errors import StationFault
try:
    FileJournal(Path({str(path)!r}))
except StationFault as fault:
    print(fault.code)
"""
    with FileJournal(path):
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert ran.stdout == "journal.in_use\n"
        with pytest.raises(StationFault, match=r"journal\.in_use"):
            FileJournal(path)
    FileJournal(path).close()


def test_journal_is_private_and_may_be_closed_twice(path: Path) -> None:
    journal = FileJournal(path)
    journal.record(entry(1))
    journal.close()
    journal.close()
    assert path.stat().st_mode & 0o7777 == 0o600
    with pytest.raises(RuntimeError):
        journal.record(entry(2))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_after_a_failed_sync_nothing_is_acknowledged_any_more(path: Path, number: int) -> None:
    failures = [OSError(number, "injected")]

    def sync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        os.fsync(descriptor)

    with FileJournal(path, sync=sync) as journal:
        for attempt in (1, 2):
            with pytest.raises(StationFault) as caught:
                journal.record(entry(attempt))
            assert caught.value.code == "journal.not_durable"
            assert "DO NOT SHIP" in caught.value.hint
        assert journal.last("SN-1") is None
        assert journal.open_attempts() == ()
    with FileJournal(path) as journal:
        journal.record(entry(3))


def test_a_group_that_fails_fails_for_everyone_in_it(path: Path) -> None:
    heads = 6
    answers: list[str] = []
    entered = Event()

    def sync(descriptor: int) -> None:
        entered.set()
        if journal.syncs == 1:
            _until(lambda: journal.waiting == heads)
            return
        raise OSError(errno.EIO, "injected")

    def head(number: int) -> None:
        try:
            journal.record(entry(number))
            answers.append("kept")
        except BirthmarkError as error:
            answers.append(error.code)

    with FileJournal(path, sync=sync) as journal:
        threads = [Thread(target=head, args=(number,)) for number in range(heads + 1)]
        threads[0].start()
        assert entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answers) == ["journal.not_durable"] * heads + ["kept"]


def record_as_one_group_after_the_first(path: Path, heads: int) -> int:
    """Let ``heads`` threads record at once; return how many times the file was synced."""
    entered = Event()

    def sync(descriptor: int) -> None:
        entered.set()
        if journal.syncs == 1:
            _until(lambda: journal.waiting == heads - 1)
        os.fsync(descriptor)

    with FileJournal(path, sync=sync) as journal:
        threads = [Thread(target=journal.record, args=(entry(number),)) for number in range(heads)]
        threads[0].start()
        assert entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        return journal.syncs


def test_heads_that_wait_together_share_one_sync(path: Path) -> None:
    assert record_as_one_group_after_the_first(path, 8) == 2
    with FileJournal(path) as journal:
        assert len(journal.open_attempts()) == 8


def test_a_hole_in_the_last_group_is_a_power_cut_and_not_an_attack(path: Path) -> None:
    record_as_one_group_after_the_first(path, 8)
    lines = path.read_bytes().splitlines(keepends=True)
    hole = [*lines[:3], bytes(len(lines[3]) + len(lines[4]) - 1) + b"\n", *lines[5:]]
    path.write_bytes(b"".join(hole))
    with FileJournal(path) as journal:
        assert len(journal.open_attempts()) == 3
    assert path.read_bytes() == b"".join(lines[:3])


def test_many_heads_lose_nothing(path: Path) -> None:
    def head(number: int) -> None:
        for step in range(50):
            journal.record(entry(number * 1000 + step))

    with FileJournal(path) as journal:
        threads = [Thread(target=head, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.syncs <= 400
    with FileJournal(path) as journal:
        assert len(journal.open_attempts()) == 400


def _until(reached) -> None:
    pause = Event()
    for _ in range(20_000):
        if reached():
            return
        pause.wait(0.001)
    raise AssertionError("not reached")
