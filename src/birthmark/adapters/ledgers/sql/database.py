"""What the shared code asks of a database connection: as much of ``sqlite3.Connection`` as it uses.

Queries are written in what SQLite and PostgreSQL have in common, with SQLite's placeholders (``?``, ``?1``). A row that
stands already is told by the row count of ``ON CONFLICT DO NOTHING``, never by an error: in PostgreSQL an error ends
the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

__all__ = ["Database", "Rows"]


class Rows(Protocol):
    """The result of a query."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """One connection."""

    @property
    def in_transaction(self) -> bool: ...

    def execute(self, query: str, values: Sequence[Any] = ..., /) -> Rows: ...

    def executemany(self, query: str, rows: Iterable[Sequence[Any]], /) -> Rows:
        """Run the query for each row; ``rowcount`` is the sum."""
        ...
