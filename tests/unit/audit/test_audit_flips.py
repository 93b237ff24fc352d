"""One flipped bit, anywhere in the evidence, is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.make_ledger import database

Flip = Callable[[Path, int], None]


def test_a_lawful_workspace_has_no_findings(story) -> None:
    report = story.audit()
    assert (report.findings, report.totals, report.errors) == ([], {}, 0)
    counts = report.counts
    assert counts["keys"] == counts["distinct_keys"] == 300 + 64 + 6
    assert counts["certificates"] == 305
    assert counts["signatures"] == 305 + 2
    assert counts["receipts"] == 23
    assert report.orders["pool"] == {
        "ordered": 300, "open": 0, "stock": 278, "consigned": 0, "in_progress": 1, "verified": 20, "failed": 0,
        "scrapped": 1,
    }  # fmt: skip
    assert report.size == report.published == 435


def test_worker_processes_find_what_one_process_finds(story, flip: Flip) -> None:
    flip(story.root / "log/tile/0/000", 32 * 7)
    alone = story.audit().document()
    from birthmark.adapters.audit.verify import verify_workspace

    together = verify_workspace(story.root, processes=2).document()
    for document in (alone, together):
        del document["seconds"], document["processes"]
    assert alone == together


def test_flipped_leaf_hash_in_a_tile_names_tile_and_entry(story, flip: Flip) -> None:
    flip(story.root / "log/tile/0/000", 32 * 100 + 5)
    (finding,) = story.found("audit.tile.mismatch")
    assert finding.where == "tile/0/000, entry 100"
    assert finding.invariant == "I7"
    assert finding.device_serial is not None
    assert finding.device_serial in finding.what
    assert set(story.audit().totals) == {"audit.tile.mismatch", "audit.tile.root"}


def test_flipped_octet_in_a_bundle_names_bundle_and_device(story, flip: Flip) -> None:
    path = story.root / "log/tile/entries/000"
    at = path.read_bytes().index(b"P-00040", 20_000)
    flip(path, at + 300)
    (finding,) = story.found("audit.tile.mismatch")
    assert finding.where.startswith("tile/entries/000, entry ")
    assert finding.device_serial == "P-00040"


def test_flipped_partial_tile_is_named(story, flip: Flip) -> None:
    (path,) = (story.root / "log/tile/0/001.p").iterdir()
    flip(path, 0)
    (finding,) = story.found("audit.tile.mismatch")
    assert finding.where == "tile/0/001.p/179, entry 256"


def test_flipped_upper_tile_names_the_entries_below(story, flip: Flip) -> None:
    flip(story.root / "log/tile/1/000.p/1", 3)
    (finding,) = story.found("audit.tile.mismatch")
    assert "entries 0 to 255" in finding.what
    assert finding.where == "tile/1/000.p/1, hash 0"


def test_every_file_of_the_log_is_checked(story, flip: Flip) -> None:
    for path in sorted((story.root / "log").rglob("*")):
        if path.is_file() and path.name != "vkey":
            flip(path, path.stat().st_size // 2)
            assert story.audit().errors, path
            flip(path, path.stat().st_size // 2)
    assert not story.audit().totals


def test_bundle_with_another_device_names_both(story) -> None:
    path = story.root / "log/tile/entries/000"
    data = path.read_bytes()
    at = data.index(b'"device":"P-00040"')
    path.write_bytes(data[: at + 16] + b"9" + data[at + 17 :])
    (finding,) = story.found("audit.tile.mismatch")
    assert "device P-00040" in finding.what
    assert "the bundle names device P-00049" in finding.what


def test_torn_tile_ahead_of_the_checkpoint_is_a_warning_only(story, flip: Flip) -> None:
    path = story.root / "log/tile/0/001"
    path.write_bytes((story.root / "log/tile/0/001.p/179").read_bytes() + bytes(100))
    assert story.audit().totals == {"audit.tile.unexpected": 1}
    (story.root / "log/tile/0/001.p/179").unlink()
    assert story.audit().totals == {"audit.tile.unexpected": 1}
    flip(path, 0)
    assert set(story.audit().totals) == {"audit.tile.unexpected", "audit.tile.missing"}


def test_missing_and_stray_tiles_are_named(story) -> None:
    (story.root / "log/tile/entries/000").unlink()
    (story.root / "log/tile/0/stray").write_bytes(b"x")
    (missing,) = story.found("audit.tile.missing")
    assert missing.where == "tile/entries/000"
    (stray,) = story.found("audit.tile.unexpected")
    assert stray.where == "log/tile/0/stray"


@pytest.mark.parametrize("part", ["random", "key", "tbs"])
def test_flipped_certificate_record_names_the_device(story, part: str) -> None:
    position, offset = 17, {"random": 0, "key": 8, "tbs": 40}[part]
    connection = database(story.root)
    intent, records = connection.execute(
        "SELECT intent, records FROM certificate WHERE chunk = 1 AND state = 'issued'"
    ).fetchone()
    damaged = bytearray(records)
    damaged[72 * position + offset] ^= 0x80
    connection.execute("UPDATE certificate SET records = ? WHERE intent = ?", (bytes(damaged), intent))
    connection.close()
    (finding,) = story.found("audit.fold.certificate")
    assert finding.device_serial == f"P-{64 + position:05d}"
    assert finding.where == f"table certificate, intent {intent}, column records"


@pytest.mark.parametrize("device", ["P-00100", "P-00003", "W-00003", "B-00001", "B-00004"])
@pytest.mark.parametrize(
    "column", ["order", "chunk", "place", "state", "intent", "position", "attempt", "device_serial"]
)
def test_changed_device_row_names_the_device(story, device: str, column: str) -> None:
    connection = database(story.root)
    value = {"order": "other", "state": "drawn", "attempt": "other-attempt", "device_serial": "ZZZZ"}.get(column, 5)
    connection.execute(f'UPDATE device SET "{column}" = ? WHERE device_serial = ?', (value, device))
    connection.close()
    findings = story.audit().findings
    named = [
        f for f in findings if f.code in ("audit.fold.device", "audit.device.double") and f.device_serial == device
    ]
    assert named, findings
    assert device in named[0].where


def test_every_column_of_every_fold_is_compared(story) -> None:
    tables = ("meta", "station", "ca", "template", "order", "chunk", "certificate", "attempt", "revoked")
    for table in tables:
        connection = database(story.root)
        columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        for column in columns:
            connection.execute("BEGIN")
            ((before, key),) = connection.execute(
                f'SELECT "{column}", "{columns[0]}" FROM "{table}" ORDER BY 2 LIMIT 1'
            ).fetchall()
            bad = "issued" if table == "chunk" and column == "state" else 77 if isinstance(before, int) else b"\1\2"
            bad = "reserved" if column == "state" and before != "reserved" else bad
            count = connection.execute(
                f'UPDATE "{table}" SET "{column}" = ? WHERE "{columns[0]}" = ? AND "{column}" IS ?', (bad, key, before)
            ).rowcount
            connection.execute("COMMIT")
            assert count >= 1
            totals = story.audit().totals
            assert any(code == f"audit.fold.{table}" for code in totals), (table, column, totals)
            restored = bad if column == columns[0] else key
            connection.execute(
                f'UPDATE "{table}" SET "{column}" = ? WHERE "{columns[0]}" = ? AND "{column}" IS ?',
                (before, restored, bad),
            )
        connection.close()
    assert not story.audit().totals


def test_row_without_an_entry_is_found(story) -> None:
    connection = database(story.root)
    connection.execute("INSERT INTO device VALUES ('GHOST', 'pool', 0, 3, NULL, NULL, NULL, NULL)")
    connection.execute("INSERT INTO attempt VALUES ('ghost-attempt', 'GHOST', 'drawn', 9)")
    connection.execute("INSERT INTO revoked VALUES (x'01', 'GHOST', 'superseded', 9)")
    connection.execute(
        "INSERT INTO certificate VALUES"
        " (9999, 'pool', 0, NULL, 0, 't', x'0101000000000000', x'', 'abandoned', NULL, NULL)"
    )
    connection.close()
    totals = story.audit().totals
    assert set(totals) == {"audit.fold.device", "audit.fold.attempt", "audit.fold.revoked", "audit.fold.certificate"}
    assert "GHOST" in {finding.device_serial for finding in story.found("audit.fold.device")}


def test_flipped_entry_body_names_entry_and_device(story) -> None:
    connection = database(story.root)
    for first, body in connection.execute("SELECT first, body FROM entry ORDER BY first").fetchall():
        at = body.find(b'"device":"P-00077"')
        if at >= 0:
            damaged = bytearray(body)
            damaged[at + 250] ^= 0x04
            connection.execute("UPDATE entry SET body = ? WHERE first = ?", (bytes(damaged), first))
            break
    connection.close()
    report = story.audit()
    named = {f.code for f in report.findings if f.device_serial == "P-00077"}
    assert {"audit.entry.hash", "audit.tile.mismatch", "audit.tbs.differs"} <= named
    assert "audit.checkpoint.root" in report.totals


def test_flipped_stored_leaf_hash_names_the_entry(story) -> None:
    connection = database(story.root)
    connection.execute("UPDATE entry SET leaf_hashes = zeroblob(length(leaf_hashes)) WHERE first = 1")
    connection.close()
    (finding,) = story.found("audit.entry.hash")
    assert finding.where == "entry 1"


def test_erased_pool_key_without_record_names_the_device(story) -> None:
    connection = database(story.root)
    intent = connection.execute("SELECT intent FROM chunk WHERE chunk = 2 AND \"order\" = 'pool'").fetchone()[0]
    with connection.blobopen("vault", "slots", intent) as slots:
        slots.seek(180 * 9)
        slots.write(bytes(180))
    connection.close()
    (finding,) = story.found("audit.vault.undrawn_erased")
    assert finding.device_serial == "P-00137"


def test_used_key_put_back_into_the_vault_names_the_device(story) -> None:
    connection = database(story.root)
    intent = connection.execute("SELECT intent FROM chunk WHERE chunk = 0 AND \"order\" = 'pool'").fetchone()[0]
    with connection.blobopen("vault", "slots", intent) as slots:
        slots.seek(180 * 5)
        slots.write(b"\x55" * 180)
    connection.close()
    (finding,) = story.found("audit.vault.drawn_not_erased")
    assert finding.device_serial == "P-00005"


def test_lost_vault_row_is_found(story) -> None:
    connection = database(story.root)
    connection.execute("DELETE FROM vault")
    connection.close()
    assert len(story.found("audit.vault.missing")) == 5 + 2
