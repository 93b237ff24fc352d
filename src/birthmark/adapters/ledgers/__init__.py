"""Ledgers: where the log of events and its tables are kept."""
