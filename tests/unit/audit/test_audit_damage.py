"""Whatever is done to the files, the audit answers with findings or one of our errors, never with a defect."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.errors import BirthmarkError, Misconfigured, Tampered
from support.make_ledger import all_entries, database, rewrite_log

Flip = Callable[[Path, int], None]


def _outcome(root: Path) -> str:
    try:
        report = verify_workspace(root, processes=1)
    except BirthmarkError as problem:
        return problem.code
    return "findings" if report.totals else "clean"


def test_no_workspace_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"audit\.workspace\.missing"):
        verify_workspace(tmp_path)


def test_garbage_instead_of_a_ledger_is_refused(story) -> None:
    (story.root / "ledger/ledger.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Tampered, match=r"audit\.ledger\.unreadable"):
        story.audit()


def test_ledger_cut_anywhere_never_passes(story) -> None:
    path = story.root / "ledger/ledger.db"
    data = path.read_bytes()
    for cut in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:cut])
        assert _outcome(story.root) != "clean"


def test_zeroed_pages_never_end_in_a_defect(story) -> None:
    path = story.root / "ledger/ledger.db"
    data = path.read_bytes()
    for at in range(0, len(data), 4096):
        path.write_bytes(data[:at] + bytes(4096) + data[at + 4096 :])
        _outcome(story.root)


def test_random_flips_in_the_ledger_never_end_in_a_defect(story, flip: Flip) -> None:
    path, draw = story.root / "ledger/ledger.db", random.Random(2026)
    data = path.read_bytes()
    for _ in range(150):
        path.write_bytes(data)
        for _ in range(3):
            flip(path, draw.randrange(100, len(data)))
        _outcome(story.root)


def test_flips_in_signed_and_rewritten_entries_never_end_in_a_defect(story) -> None:
    draw = random.Random(2027)
    entries = list(all_entries(story.root))
    for _ in range(30):
        damaged = list(entries)
        for seq in (*range(1, 6), *(draw.randrange(len(entries)) for _ in range(40))):
            entry = bytearray(damaged[seq])
            for _ in range(2):
                entry[draw.randrange(len(entry))] = draw.randrange(256)
            damaged[seq] = bytes(entry)
        rewrite_log(story.root, story.maker.log_key, lambda _, new=damaged: new)
        assert _outcome(story.root) == "findings"


def test_garbage_tiles_are_findings(story) -> None:
    for path in list((story.root / "log").rglob("*")):
        if path.is_file() and path.name != "vkey":
            for garbage in (b"", b"\0" * 31, b"\xff" * 9000):
                before = path.read_bytes()
                path.write_bytes(garbage)
                assert _outcome(story.root) == "findings", path
                path.write_bytes(before)


def test_wrong_types_in_every_column_are_findings(story) -> None:
    connection = database(story.root)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    connection.close()
    path = story.root / "ledger/ledger.db"
    data = path.read_bytes()
    for table in tables:
        connection = database(story.root)
        columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        connection.close()
        for column in columns:
            for value in ("text", b"\xff\x00", -1, 1.5):
                connection = database(story.root)
                try:
                    connection.execute(f'UPDATE OR IGNORE "{table}" SET "{column}" = ?', (value,))
                except sqlite3.IntegrityError:
                    pass  # a CHECK stands before this column
                finally:
                    connection.close()
                changed = path.read_bytes() != data
                sealed = (table, column) == ("vault", "encapsulated")  # only its owner can tell
                assert _outcome(story.root) != "clean" or sealed or not changed, (table, column, value)
                path.write_bytes(data)


def test_unreadable_vkey_is_named(story) -> None:
    (story.root / "log/vkey").write_text("nobody")
    with pytest.raises(Misconfigured, match=r"audit\.vkey"):
        story.audit()


def test_read_only_workspace_can_be_audited_and_stays_untouched(story) -> None:
    before = sorted(
        (p.relative_to(story.root).as_posix(), p.read_bytes()) for p in story.root.rglob("*") if p.is_file()
    )
    story.audit()
    after = sorted((p.relative_to(story.root).as_posix(), p.read_bytes()) for p in story.root.rglob("*") if p.is_file())
    assert [name for name, _ in before] == [name for name, _ in after]
    assert before == after
