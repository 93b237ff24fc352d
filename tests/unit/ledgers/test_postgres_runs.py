"""Key runs of a shared ledger: a cache of each machine, tied to its log; the tables are the truth."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sql import keyruns
from birthmark.errors import Refused
from support.ledger import Author, TestClock, make_records, serials
from support.postgres import PostgresServer, create_postgres, open_postgres


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyruns, "_FLUSH_AT", 8)


class Machine:
    """A machine with keys on record: ``records`` of six chunks, all but the last of them in runs."""

    def __init__(self, conninfo: str, directory: Path) -> None:
        self.conninfo, self.directory = conninfo, directory
        ledger = create_postgres(conninfo, directory, TestClock())
        author = Author(ledger)
        author.order("a", serials("A", 32))
        self.records = [make_records(4) for _ in range(6)]
        for chunk, records in enumerate(self.records):
            author.reserve("a", chunk=chunk, count=4, records=records)
        ledger.close()

    @property
    def runs(self) -> list[Path]:
        return sorted((self.directory / "runs").glob("*.run"))

    def require_known(self, directory: Path | None = None) -> None:
        """Every key is refused, in a ledger that is opened anew."""
        ledger = open_postgres(self.conninfo, directory or self.directory, TestClock())
        for records in self.records:
            for place in range(4):
                taken = make_records(3) + records[72 * place : 72 * place + 72]
                with pytest.raises(Refused, check=lambda refused: refused.code == "key.reused"):
                    Author(ledger).reserve("a", chunk=7, count=4, records=taken)
        ledger.close()


@pytest.fixture
def machine(postgres: PostgresServer, tmp_path: Path) -> Machine:
    return Machine(postgres.conninfo(), tmp_path / "first")


def test_keys_in_runs_and_after_them_are_known(machine: Machine, tmp_path: Path):
    assert machine.runs
    assert len((machine.directory / "runs" / "catalog").read_text().splitlines()) == len(machine.runs)
    machine.require_known()
    machine.require_known(tmp_path / "a machine without runs")


def test_runs_of_another_log_are_not_believed(machine: Machine, postgres: PostgresServer, tmp_path: Path):
    """As after somebody restored another database behind the same name."""
    other = Machine(postgres.conninfo(), tmp_path / "second")
    shutil.rmtree(machine.directory / "runs")
    shutil.copytree(other.directory / "runs", machine.directory / "runs")
    machine.require_known()


@pytest.mark.parametrize("damage", ["a run is gone", "a run is cut", "the catalog is gone", "the catalog is noise"])
def test_a_damaged_cache_is_made_anew(machine: Machine, damage: str):
    catalog = machine.directory / "runs" / "catalog"
    if damage == "a run is gone":
        machine.runs[0].unlink()
    elif damage == "a run is cut":
        machine.runs[0].write_bytes(machine.runs[0].read_bytes()[:-32])
    elif damage == "the catalog is gone":
        catalog.unlink()
    else:
        catalog.write_bytes(b"\xff\x00 not a catalog\n")
    machine.require_known()


def test_a_second_process_of_the_machine_follows(machine: Machine):
    """Both have it open; each writes runs that take in those of the other."""
    both = [open_postgres(machine.conninfo, machine.directory, TestClock()) for _ in range(2)]
    authors = [Author(ledger) for ledger in both]
    authors[0].order("b", serials("B", 64))
    for chunk in range(12):
        records = make_records(4)
        authors[chunk % 2].reserve("b", chunk=chunk, count=4, records=records)
        machine.records.append(records)
    for ledger in both:
        ledger.close()
    listed = {line.split()[0] for line in (machine.directory / "runs" / "catalog").read_text().splitlines()}
    assert listed == {path.name for path in machine.runs}
    machine.require_known()


def test_a_run_that_cannot_be_written_fails_no_event(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    ledger: Any = open_postgres(machine.conninfo, machine.directory, TestClock())

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    author = Author(ledger)
    with monkeypatch.context() as patched:
        patched.setattr(keyruns, "_write_run", full)
        author.order("c", serials("C", 32))
        for chunk in range(8):
            records = make_records(4)
            author.reserve("c", chunk=chunk, count=4, records=records)
            machine.records.append(records)
    ledger.close()
    machine.require_known()
