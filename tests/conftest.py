"""What the whole session shares: servers that are dear to start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from support.postgres import PostgresServer

# A run that decides about a change is the same run twice; new examples are looked for everywhere else.
settings.register_profile("decides", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("decides")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    from support.postgres import PostgresServer

    server = PostgresServer()
    server.start()
    yield server
    server.remove()
