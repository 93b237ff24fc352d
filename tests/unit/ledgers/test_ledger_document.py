"""The format page is the format: its tables are those of the schema, its codes those of the code."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from birthmark.adapters.ledgers.sql import keyruns
from birthmark.adapters.ledgers.sql.schema import FOLDED_TABLES, SCHEMA_FORMAT
from birthmark.adapters.ledgers.sqlite.connection import create_schema

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/formats/ledger.md").read_text(encoding="utf-8")


def test_every_table_and_column_stands_on_the_page():
    said: dict[str, list[tuple[str, str, bool, bool]]] = {}
    table = ""
    for line in PAGE.partition("## Tables")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4 or not cells[1].startswith("`"):
            continue
        table = cells[0].strip("`") or table
        kind, *rest = cells[2].split(", ")
        said.setdefault(table, []).append((cells[1].strip("`"), kind, "null" in rest, "key" in rest))
    database = sqlite3.connect(":memory:")
    create_schema(database)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for name in tables:
        columns = database.execute(f'PRAGMA table_info("{name}")').fetchall()
        expected = [(column, kind, not (required or key), bool(key)) for _, column, kind, required, _, key in columns]
        assert said.pop(name) == expected, name
    database.close()
    assert said == {}


def test_what_is_a_fold_stands_on_the_page():
    part = PAGE.partition("| what | where")[2].partition("\n\n")[0]
    folded = [re.findall(r"`([a-z_]+)`", line.split("|")[2]) for line in part.splitlines() if line.endswith("| yes |")]
    assert {name for names in folded for name in names} == set(FOLDED_TABLES)


def test_the_formats_have_their_names():
    assert f"`{SCHEMA_FORMAT}`" in PAGE
    assert f"`{keyruns._MAGIC.decode()}`" in PAGE
    assert f"{keyruns._FLUSH_AT:,}".replace(",", " ") in PAGE


def test_every_code_of_the_ledger_stands_on_the_page():
    sources = [path.read_text() for path in (ROOT / "src/birthmark/adapters/ledgers").glob("*/*.py")]
    raised = set(re.findall(r'"((?:ledger|log)\.[a-z_]+(?:\.[a-z_]+)?)"', "".join(sources)))
    table = set(re.findall(r"`((?:ledger|log)\.[a-z_.]+)`", PAGE.partition("## What goes wrong")[2]))
    assert raised - {"log.head.not_growing", "ledger.db"} <= table
    assert table - {"ledger.rolled_back"} <= raised
