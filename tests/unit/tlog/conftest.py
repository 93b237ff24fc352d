from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paperlog import PaperLog

from support.golog import build_reader

VECTORS = Path(__file__).parents[2] / "vectors" / "tlog"


@pytest.fixture
def paper_log() -> PaperLog:
    return PaperLog()


@pytest.fixture(scope="session")
def go_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_reader(tmp_path_factory.mktemp("readlog"))


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], dict[str, Any]]:
    def load(name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((VECTORS / name).read_text(encoding="utf-8"))
        return document

    return load
