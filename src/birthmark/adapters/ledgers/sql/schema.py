"""The tables, from one source for every dialect."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["FOLDED_TABLES", "SCHEMA_FORMAT", "TABLES", "schema_statements"]

SCHEMA_FORMAT = "birthmark-ledger/1"

FOLDED_TABLES = (
    "meta", "station", "ca", "template", "order", "chunk", "certificate", "device", "attempt", "revoked", "site",
    "assignment", "access", "bundle", "settled", "site_key", "finding", "approvers", "approval",
    "preload_file", "preload", "vendor_ca",
)  # fmt: skip
"""Everything but the log itself (`entry`, `head`), the key runs (a cache) and the vault (secrets)."""

TABLES = ("head", "entry", *FOLDED_TABLES, "vault")
"""What a copy of a ledger consists of."""


def schema_statements() -> list[str]:
    """Return the statements of ``schema.sql`` without comments, as SQLite reads them."""
    text = files("birthmark.adapters.ledgers.sql").joinpath("schema.sql").read_text()
    uncommented = "\n".join(line.partition("--")[0] for line in text.splitlines())
    return [statement.strip() for statement in uncommented.split(";") if statement.strip()]
