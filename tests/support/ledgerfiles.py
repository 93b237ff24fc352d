"""The files of a workspace as its owner could forge them: entries rewritten, the log published again."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.tlog import checkpoint, tiles
from birthmark.tlog.merkle import Frontier

__all__ = ["ORIGIN", "all_entries", "database", "publish", "rewrite_log"]

ORIGIN = "birthmark/test/site"


def database(root: Path) -> sqlite3.Connection:
    """Open the ledger file of a workspace, commits at once."""
    return sqlite3.connect(root / "ledger" / "ledger.db", isolation_level=None)


def all_entries(root: Path) -> Iterator[bytes]:
    """Yield every stored entry."""
    connection = database(root)
    for (body,) in connection.execute("SELECT body FROM entry ORDER BY first"):
        yield from tiles.decode_entries(body)
    connection.close()


def publish(root: Path, log_key: Ed25519PrivateKey, origin: str = ORIGIN) -> None:
    """Sign a head over all stored entries and write every file of the log."""
    entries = list(all_entries(root))
    written: dict[str, bytes] = {}
    leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries]
    for tile, data in (*tiles.hash_tiles(0, leaves, written.get), *tiles.entry_bundles(0, entries, written.get)):
        path = root / "log" / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    frontier = Frontier().extend(leaves)
    note = checkpoint.sign(checkpoint.Checkpoint(origin, len(entries), frontier.root()), log_key).encode()
    (root / "log" / "checkpoint").write_bytes(note)
    connection = database(root)
    connection.execute(
        "UPDATE head SET size = ?1, published = ?1, frontier = ?2, checkpoint = ?3",
        (len(entries), frontier.to_bytes(), note),
    )
    connection.close()


def rewrite_log(
    root: Path, log_key: Ed25519PrivateKey, change: Callable[[list[bytes]], list[bytes]], origin: str = ORIGIN
) -> None:
    """Forge history as somebody with the log key could: change the entries, then make all hashes agree again."""
    entries = change(list(all_entries(root)))
    connection = database(root)
    connection.execute("BEGIN")
    connection.execute("DELETE FROM entry")
    for seq, entry in enumerate(entries):
        body, leaf = len(entry).to_bytes(2, "big") + entry, hashlib.sha256(b"\0" + entry).digest()
        connection.execute("INSERT INTO entry VALUES (?, 1, ?, ?)", (seq, body, leaf))
    connection.execute("COMMIT")
    connection.close()
    shutil.rmtree(root / "log" / "tile", ignore_errors=True)
    publish(root, log_key, origin)
