"""Replicas of a shared ledger behind real cables: one is pulled under load, others go on, and the laws hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.model import events as e
from support.ledger import Author, TestClock, serials
from support.netns import HUB, Cables
from support.postgres import PostgresServer, create_postgres, open_postgres

TESTS = Path(__file__).parents[1]
DEVICES = serials("A", 1200)
REPLICAS = {"left": DEVICES, "right": DEVICES[::-1]}


@pytest.fixture(scope="module")
def cables() -> Iterator[Cables]:
    cables = Cables(*REPLICAS)
    yield cables
    cables.remove()


class _Server(PostgresServer):
    """A server on the hub: by TCP for the replicas, by its Unix socket for the test."""

    def __init__(self, cables: Cables) -> None:
        self._on_hub = cables.command("hub")
        super().__init__()
        with (self.directory / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 192.0.2.0/24 trust\n")

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ("setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups")
        command = [*self._on_hub, *as_user, str(self._bin / program), *arguments]
        with (self.directory / "log").open("ab") as log:
            subprocess.run(command, cwd=self.directory, stdout=log, stderr=log, check=True)


@pytest.fixture(scope="module")
def server(cables: Cables) -> Iterator[PostgresServer]:
    server = _Server(cables)
    server.start(f"listen_addresses={HUB}")
    yield server
    server.remove()


@pytest.fixture
def conninfo(server: PostgresServer, tmp_path: Path) -> str:
    made = server.conninfo()
    ledger = create_postgres(made, tmp_path / "0", TestClock())
    Author(ledger).make("a", DEVICES, chunk=100)
    ledger.close()
    return made


def start(cables: Cables, server: PostgresServer, conninfo: str, tmp_path: Path) -> list[subprocess.Popen[str]]:
    """Start a replica on each host; they begin together."""
    by_tcp = conninfo.replace(f"host={server.directory}", f"host={HUB}")
    assert by_tcp != conninfo
    running = [
        subprocess.Popen(
            [*cables.command(name), sys.executable, "-m", "support.pgwriter", "drain", by_tcp, str(tmp_path / name),
             name, *devices],
            cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, devices in REPLICAS.items()
    ]  # fmt: skip
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return running


def wait_for_growth(conninfo: str, entries: int) -> None:
    """Wait until the log is so much longer than now."""
    with psycopg.connect(conninfo, autocommit=True) as connection:

        def size() -> int:
            row = connection.execute("SELECT size FROM head").fetchone()
            assert row is not None
            return int(row[0])

        wanted = size() + entries
        while size() < wanted:
            pass


def acknowledged(running: list[subprocess.Popen[str]]) -> list[list[list[str]]]:
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return [[line.split() for line in output.splitlines()] for output in outputs]


def require_laws(conninfo: str, tmp_path: Path, said: list[list[list[str]]]) -> None:
    """Every device has one identity, every acknowledged answer is on record as it was told, tables fit the log."""
    ledger = open_postgres(conninfo, tmp_path / "auditor", TestClock())
    entries = dict(ledger.entries(0, 10**6))
    assert sorted(entries) == list(range(ledger.head().size))
    drawn: dict[str, tuple[int, str]] = {}
    for seq, entry in entries.items():
        event = e.decode_entry(entry)[0]
        if isinstance(event, e.Drawn):
            assert event.device not in drawn, "two identities"
            drawn[event.device] = (seq, event.attempt)
    told = [line for lines in said for line in lines if line[0] == "drawn"]
    assert {line[1]: (int(line[2]), line[3]) for line in told} == drawn
    assert len(told) == len(drawn) == len(DEVICES)
    prefixes = [line[4] for line in told if len(line) == 5]
    assert len(prefixes) == len(set(prefixes))
    replay_ledger(ledger, progress=lambda count: None)
    ledger.close()


def test_a_replica_that_is_cut_off_stops_nobody_and_loses_nothing(
    cables: Cables, server: PostgresServer, conninfo: str, tmp_path: Path
):
    """Each cable is pulled in turn; the other replica goes on meanwhile, also if the lost one was the sequencer."""
    running = start(cables, server, conninfo, tmp_path)
    for name in REPLICAS:
        wait_for_growth(conninfo, 60)
        cables.pull(name)
        wait_for_growth(conninfo, 60)
        cables.plug(name)
    said = acknowledged(running)
    assert all(any(line[0] == "drawn" for line in lines) for lines in said)
    require_laws(conninfo, tmp_path, said)


def test_all_replicas_are_cut_off_at_once_and_come_back(
    cables: Cables, server: PostgresServer, conninfo: str, tmp_path: Path
):
    running = start(cables, server, conninfo, tmp_path)
    wait_for_growth(conninfo, 100)
    for name in REPLICAS:
        cables.pull(name)
    for name in REPLICAS:
        cables.plug(name)
    require_laws(conninfo, tmp_path, acknowledged(running))
