"""The database server is killed, loses power, is cut off; replicas race and stand still: the laws hold after each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import Misconfigured, Refused, StationFault, Unavailable
from birthmark.model import events as e
from support.ledger import AT, Author, TestClock, serials
from support.pgproxy import BreakingWire
from support.postgres import PostgresServer, create_postgres, open_postgres

TESTS = Path(__file__).parents[1]
DEVICES = serials("A", 400)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of our own: it is going to suffer."""
    made = PostgresServer()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def conninfo(server: PostgresServer, tmp_path: Path) -> str:
    """A database with a pool of devices."""
    made = server.conninfo()
    ledger = create_postgres(made, tmp_path / "0", TestClock())
    Author(ledger).make("a", DEVICES, chunk=100)
    ledger.close()
    return made


def writer(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.pgwriter", *arguments],
        cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def drainers(conninfo: str, tmp_path: Path) -> list[subprocess.Popen[str]]:
    """Two replicas that want the same devices, from both ends."""
    started = [
        writer("drain", conninfo, str(tmp_path / name), name, *devices)
        for name, devices in (("up", DEVICES), ("down", DEVICES[::-1]))
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return started


def told(processes: list[subprocess.Popen[str]]) -> list[list[list[str]]]:
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [[line.split() for line in output.splitlines()] for output in outputs]


def require_laws(conninfo: str, tmp_path: Path, said: list[list[list[str]]]) -> None:
    """Nothing acknowledged is lost, nothing happened twice, numbers have no gap, tables are what the log says."""
    ledger = open_postgres(conninfo, tmp_path / "auditor", TestClock())
    entries = dict(ledger.entries(0, 10**6))
    assert sorted(entries) == list(range(ledger.head().size))
    drawn = {}
    for seq, entry in entries.items():
        event = e.decode_entry(entry)[0]
        if isinstance(event, e.Drawn):
            assert event.device not in drawn
            drawn[event.device] = (seq, event.attempt)
    acknowledged = [line for lines in said for line in lines if line[0] == "drawn"]
    assert {line[1]: (int(line[2]), line[3]) for line in acknowledged} == drawn
    assert len(acknowledged) == len(drawn) == len(DEVICES)
    prefixes = [line[4] for line in acknowledged if len(line) == 5]
    assert len(prefixes) == len(set(prefixes))
    replay_ledger(ledger, progress=lambda count: None)
    ledger.close()


def wait_for_growth(server: PostgresServer, conninfo: str) -> None:
    """Wait until the replicas did something since now."""
    before: list[Any] | None = None
    while True:
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                now = connection.execute("SELECT size FROM head").fetchone()
        except psycopg.OperationalError:
            continue
        assert now is not None
        if before is None:
            before = [now[0]]
        if now[0] >= min(before[0] + 40, 400):
            return


def test_two_replicas_race_for_one_pool(conninfo: str, tmp_path: Path):
    said = told(drainers(conninfo, tmp_path))
    assert all(any(line[0] == "drawn" for line in lines) for lines in said)
    require_laws(conninfo, tmp_path, said)


def test_backends_are_killed_under_load(server: PostgresServer, conninfo: str, tmp_path: Path):
    """The server then restarts itself and recovers, as after a crash."""
    running = drainers(conninfo, tmp_path)
    for _ in range(3):
        wait_for_growth(server, conninfo)
        for (pid,) in server.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'birthmark' LIMIT 1"):
            os.kill(int(str(pid)), signal.SIGKILL)
    require_laws(conninfo, tmp_path, told(running))


def test_the_server_loses_power_under_load(server: PostgresServer, conninfo: str, tmp_path: Path):
    running = drainers(conninfo, tmp_path)
    for _ in range(3):
        wait_for_growth(server, conninfo)
        server.stop("immediate")
        server.start()
    require_laws(conninfo, tmp_path, told(running))


def codes(conninfo: str, tmp_path: Path) -> list[str]:
    ledger = open_postgres(conninfo, tmp_path / "reader", TestClock())
    events = [e.decode_entry(entry)[0] for _, entry in ledger.entries(0, 10**6)]
    replay_ledger(ledger, progress=lambda count: None)
    ledger.close()
    return [event.code for event in events if isinstance(event, e.Rejected)]


def say(ledger: Any, code: str) -> None:
    with ledger.transaction() as tx:
        tx.append(e.Rejected(at=AT, station="s", code=code))


def test_a_replica_that_stands_still_as_sequencer_is_passed_over_and_cannot_commit(conninfo: str, tmp_path: Path):
    stopped = writer("hold", conninfo, str(tmp_path / "1"), "1.5")
    assert stopped.stdout is not None
    assert stopped.stdin is not None
    assert stopped.stdout.readline() == "holding\n"
    os.kill(stopped.pid, signal.SIGSTOP)
    hurried = open_postgres(conninfo, tmp_path / "2", TestClock(), lock_s=0.1)
    with pytest.raises(Unavailable, check=lambda problem: problem.code == "ledger.busy"):
        say(hurried, "x.hurried")
    patient = open_postgres(conninfo, tmp_path / "3", TestClock())
    say(patient, "x.patient")
    say(hurried, "x.hurried")
    os.kill(stopped.pid, signal.SIGCONT)
    out, _ = stopped.communicate("go on\n", timeout=60)
    assert out.splitlines()[0] in ("ledger.stalled", "ledger.unreachable")
    assert out.splitlines()[1] == "done"
    assert codes(conninfo, tmp_path) == ["x.patient", "x.hurried", "x.later"]
    patient.close()
    hurried.close()


@pytest.fixture
def wire(server: PostgresServer, tmp_path: Path) -> Iterator[BreakingWire]:
    (tmp_path / "wire").mkdir()
    made = BreakingWire(tmp_path / "wire", server.directory)
    yield made
    made.close()


def through(wire: BreakingWire, conninfo: str, server: PostgresServer, tmp_path: Path) -> str:
    return conninfo.replace(f"host={server.directory}", f"host={tmp_path / 'wire'}")


@pytest.mark.parametrize("breaks", ["before", "after"])
def test_the_wire_breaks_at_the_commit_and_the_same_attempt_finds_out(
    wire: BreakingWire, conninfo: str, server: PostgresServer, tmp_path: Path, breaks: Any
):
    ledger = open_postgres(through(wire, conninfo, server, tmp_path), tmp_path / "1", TestClock())
    author = Author(ledger)
    wire.breaks = breaks
    with pytest.raises(Unavailable, check=lambda problem: problem.code == "ledger.commit.unknown"):
        author.draw("A-00000", "attempt-1")
    on_record = ledger.records.attempt("attempt-1")
    assert (on_record is not None) == (breaks == "after")
    if on_record is None:
        author.draw("A-00000", "attempt-1")
    with pytest.raises(Refused, check=lambda problem: problem.code == "device.state"):
        author.draw("A-00000", "attempt-1")
    assert ledger.records.device("A-00000").attempt == "attempt-1"
    replay_ledger(ledger, progress=lambda count: None)
    ledger.close()


def test_keys_of_a_commit_nobody_heard_of_are_taken(
    wire: BreakingWire, conninfo: str, server: PostgresServer, tmp_path: Path
):
    from support.ledger import make_records

    ledger = open_postgres(through(wire, conninfo, server, tmp_path), tmp_path / "1", TestClock())
    author = Author(ledger)
    author.order("b", serials("B", 8))
    records, prefix = make_records(4), author.prefix()
    wire.breaks = "after"
    with pytest.raises(Unavailable, check=lambda problem: problem.code == "ledger.commit.unknown"):
        author.reserve("b", chunk=0, count=4, records=records, prefix=prefix)
    with pytest.raises(Refused, check=lambda problem: problem.code == "key.reused"):
        author.reserve("b", chunk=1, count=4, records=records)
    with pytest.raises(Refused, check=lambda problem: problem.code == "ledger.cert_serial"):
        author.reserve("b", chunk=1, count=4, prefix=prefix)
    ledger.close()


def test_a_session_that_ended_while_nobody_worked_is_made_anew(server: PostgresServer, conninfo: str, tmp_path: Path):
    ledger = open_postgres(conninfo, tmp_path / "1", TestClock())
    say(ledger, "x.1")
    server.stop("fast")
    with pytest.raises(Unavailable, check=lambda problem: problem.code == "ledger.unreachable"):
        say(ledger, "x.never")
    with pytest.raises(Unavailable):
        ledger.head()
    server.start()
    size = ledger.head().size
    say(ledger, "x.2")
    assert ledger.head().size == size + 1
    for pid in ledger.backends:
        server.query(f"SELECT pg_terminate_backend({pid})")
    assert ledger.head().size == size + 1
    say(ledger, "x.3")
    ledger.close()
    assert codes(conninfo, tmp_path) == ["x.1", "x.2", "x.3"]


def test_a_group_whose_session_ends_is_told_to_all_and_kept_by_none(
    server: PostgresServer, conninfo: str, tmp_path: Path
):
    ledger = open_postgres(conninfo, tmp_path / "1", TestClock())

    def act() -> None:
        with ledger.transaction() as tx:
            tx.append(e.Rejected(at=AT, station="s", code="x.first"))
            server.query(f"SELECT pg_terminate_backend({ledger.backends[0]})")
            with pytest.raises(Unavailable), ledger._naming(), tx.part():
                tx.append(e.Rejected(at=AT, station="s", code="x.part"))

    with pytest.raises(Unavailable):
        act()
    say(ledger, "x.after")
    ledger.close()
    assert codes(conninfo, tmp_path) == ["x.after"]


def test_a_server_that_acknowledges_too_early_is_refused(server: PostgresServer, conninfo: str, tmp_path: Path):
    with pytest.raises(StationFault, check=lambda fault: fault.code == "ledger.not_durable"):
        open_postgres(
            conninfo.replace("options=-c", "options='-c synchronous_commit=off -c") + "'", tmp_path, TestClock()
        )
    server.stop()
    server.start("fsync=off")
    try:
        with pytest.raises(StationFault, check=lambda fault: fault.code == "ledger.not_durable"):
            open_postgres(conninfo, tmp_path, TestClock())
    finally:
        server.stop()
        server.start()


def test_a_schema_without_a_ledger_and_one_with_it(server: PostgresServer, conninfo: str, tmp_path: Path):
    with pytest.raises(Misconfigured, check=lambda problem: problem.code == "ledger.missing"):
        open_postgres(server.conninfo(), tmp_path, TestClock())
    with pytest.raises(Refused, check=lambda problem: problem.code == "ledger.file_exists"):
        create_postgres(conninfo, tmp_path, TestClock())


def test_text_that_the_database_cannot_keep_is_refused(conninfo: str, tmp_path: Path):
    ledger = open_postgres(conninfo, tmp_path / "1", TestClock())
    with pytest.raises(Refused, check=lambda problem: problem.code == "log.entry.text"):
        Author(ledger).draw("A-00000", "attempt\0-1")
    Author(ledger).draw("A-00000", "attempt-1")
    ledger.close()
