"""An authority and its sites are audited, each alone; what contradicts the record is found and named."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import Report, verify_workspace
from support.make_ledger import database
from support.make_sites import FACTORY, LIVE, POOL


def _audit(root: Path) -> Report:
    return verify_workspace(root, processes=1)


def test_a_lawful_authority_has_no_findings(world_root: Path) -> None:
    report = _audit(world_root / "authority")
    assert (report.findings, report.totals) == ([], {})
    assert report.orders["sealed"] == {
        "ordered": 12, "open": 0, "stock": 1, "consigned": 8, "in_progress": 0, "verified": 2, "failed": 0,
        "scrapped": 1,
    }  # fmt: skip
    assert report.orders["fac"]["verified"] == 3
    assert report.counts["receipts"] == 3 + 2 + 2
    assert report.counts["settled"] == 5 + 3 + 3


@pytest.mark.parametrize("site", [FACTORY, POOL, LIVE])
def test_a_lawful_site_is_audited_alone(world_root: Path, site: str) -> None:
    report = _audit(world_root / site)
    assert (report.findings, report.totals) == ([], {})
    assert report.counts["receipts"] >= 2


def test_worker_processes_find_what_one_process_finds(world_root: Path) -> None:
    log = world_root / "authority/sites" / POOL / "log"
    data = bytearray((log / "checkpoint").read_bytes())
    data[-9] ^= 1
    (log / "checkpoint").write_bytes(data)
    alone = _audit(world_root / "authority").document()
    together = verify_workspace(world_root / "authority", processes=2).document()
    for document in (alone, together):
        del document["seconds"], document["processes"]
    assert alone == together
    assert not alone["ok"]


TABLES = ("site", "assignment", "access", "bundle", "settled", "site_key", "finding", "approvers", "approval", "meta",
          "ca", "chunk", "device")  # fmt: skip


@pytest.mark.parametrize("part", ["authority", FACTORY, POOL])
def test_every_column_of_the_tables_of_sites_is_compared(world_root: Path, part: str) -> None:
    root = world_root / part
    for table in (*TABLES, "certificate"):
        connection = database(root)
        for column in [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]:
            found = connection.execute(f'SELECT "{column}" FROM "{table}" ORDER BY 1 DESC').fetchone()
            if found is None:
                continue
            before = connection.execute(f'SELECT * FROM "{table}" ORDER BY 1').fetchall()
            bad = "reserved" if column == "state" and found[0] != "reserved" else 77 if type(found[0]) is int else "?"
            connection.execute("BEGIN")
            changed = connection.execute(
                f'UPDATE OR IGNORE "{table}" SET "{column}" = ? WHERE "{column}" IS ? AND NOT EXISTS'
                f' (SELECT 1 FROM "{table}" WHERE "{column}" = ?)',
                (bad, found[0], bad),
            ).rowcount
            connection.execute("COMMIT" if changed == 1 else "ROLLBACK")
            if changed == 1:
                totals = _audit(root).totals
                assert {f"audit.fold.{table}", "audit.device.double"} & set(totals), (table, column, totals)
            connection.execute(f'DELETE FROM "{table}"')
            marks = ", ".join("?" * len(before[0]))
            connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', before)
        connection.close()
    assert not _audit(root).totals


def test_rows_of_sites_without_an_entry_are_found(world_root: Path) -> None:
    ghosts = {
        "site": "'ghost', 'g', 'v', '0777', 'pool', NULL, 0, '', 0, 3",
        "assignment": "'ghost', 'alpha', 'pool', 3",
        "access": "'00', 'ghost', 'operator', NULL, NULL, 3",
        "bundle": "'ghost', 'sealed', 'beta', 1, 3",
        "settled": "'K-00002', 'beta', 3",
        "site_key": "3, x'00'",
        "finding": "3, 'beta', 'site.fork', NULL, NULL",
        "approvers": "3, 1, 'ghost'",
        "approval": "'ghost', 'x', 3",
    }
    root = world_root / "authority"
    for table, row in ghosts.items():
        connection = database(root)
        before = connection.execute(f'SELECT * FROM "{table}"').fetchall()
        connection.execute(f'INSERT INTO "{table}" VALUES ({row})')
        found = {finding.code for finding in _audit(root).findings}
        assert f"audit.fold.{table}" in found, table
        connection.execute(f'DELETE FROM "{table}"')
        assert f"audit.fold.{table}" in _audit(root).totals, table
        connection.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(before[0]))})', before)
        connection.close()
    assert not _audit(root).totals


def test_wrong_types_in_the_tables_of_sites_are_findings(world_root: Path) -> None:
    path = world_root / "authority/ledger/ledger.db"
    data = path.read_bytes()
    for table in TABLES[:9]:
        connection = database(world_root / "authority")
        columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        connection.close()
        for column in columns:
            for value in ("text", b"\xff\x00", -1, 1.5):
                connection = database(world_root / "authority")
                with contextlib.suppress(sqlite3.IntegrityError):
                    connection.execute(f'UPDATE OR IGNORE "{table}" SET "{column}" = ?', (value,))
                connection.close()
                if path.read_bytes() != data:
                    assert _audit(world_root / "authority").errors, (table, column, value)
                path.write_bytes(data)
