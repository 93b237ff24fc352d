"""The shared ledger: a PostgreSQL database that several service replicas write, one at a time."""

from birthmark.adapters.ledgers.postgres.store import PostgresLedger

__all__ = ["PostgresLedger"]
