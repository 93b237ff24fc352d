"""What the whole session shares: servers that are dear to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    from support.postgres import PostgresServer

    server = PostgresServer()
    server.start()
    yield server
    server.remove()
