"""The journal is struck at every write and sync: what was acknowledged is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from birthmark.adapters.journal import FileJournal
from support.faultline import KILL, strike

COUNT = 6
PROGRAM = f"""
import sys
from pathlib import Path
from birthmark.adapters.journal import FileJournal
from birthmark.errors import StationFault
from birthmark.ports import JournalRecord
try:
    journal = FileJournal(Path(sys.argv[1]))
    for number in range({COUNT}):
        journal.record(JournalRecord(f"attempt-{{number:04d}}", f"SN-{{number}}", "install", "files:x"))
        print("kept", number, flush=True)
except StationFault as fault:
    print(fault.code, fault.hint)
"""


@pytest.mark.parametrize("fault", [KILL, "error=EIO", "error=ENOSPC"])
def test_acknowledged_record_survives_a_strike_at_every_sync(fault: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    when = 0
    struck = True
    while struck:
        when += 1
        path = tmp_path / f"journal-{when}"
        struck, printed = strike(program, path, call="fsync", fault=fault, when=when)
        kept = printed.count("kept")
        assert (kept == COUNT) is not struck
        if struck and fault != KILL and kept:
            assert "journal.not_durable DO NOT SHIP" in printed
        with FileJournal(path) as journal:
            attempts = [record.attempt for record in journal.open_attempts()]
        assert attempts[:kept] == [f"attempt-{number:04d}" for number in range(kept)]
        assert len(attempts) <= kept + 1
    assert when > COUNT
