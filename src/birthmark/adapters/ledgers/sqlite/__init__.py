"""The embedded ledger: one SQLite file (WAL, synchronous=FULL) and the key runs beside it."""

from birthmark.adapters.ledgers.sqlite.store import SqliteLedger

__all__ = ["SqliteLedger"]
