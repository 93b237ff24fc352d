"""The real server against its own description: whatever is generated from it, the answer is one that it promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from support.serviceworld import Running, World, build_world

CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("openapi") / "world")


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Running]:
    with world.running() as running:
        yield running
