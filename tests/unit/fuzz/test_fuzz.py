"""Whatever a stranger sends is read, or refused by name: no other error, no wait without end, no memory without bound.

More examples: ``BIRTHMARK_FUZZ_EXAMPLES=20000``. Every failure is shrunk by Hypothesis and printed.
"""

from __future__ import annotations

import ast
import os
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from mutations import Mutation, apply, evil_versions, mutations
from strangers import Stranger, strangers

import birthmark
from support.realdocuments import Story, tell_story

EXAMPLES = int(os.environ.get("BIRTHMARK_FUZZ_EXAMPLES", "60"))
MOST_OCTETS = 48 << 20
"""What reading about 100 KB may take at its peak, in octets of Python's own memory."""
HANG_S = 60
SOURCE = Path(birthmark.__file__).parent
NOT_FROM_STRANGERS = {
    "tlog.tiles.load_tile": "finds a tile by its name; what it holds is compared with the tree",
    "tlog.tiles.load_entries": "as load_tile; decode_entries reads what it holds",
    "pki.profile.load_preset": "reads the presets of the package",
    "pki.lintcase.open_case": "takes a certificate that open_parts and parse_certificate have read",
    "pki.derread.read_members": "in the table with read_der",
    "pki.templatefile.open_profile": "in the table with decode",
    "wire.document.open_document": "in the table, once for each kind of document",
    "wire.vault.open_slot": "open_content_key and open_slot_with, both in the table, one after the other",
}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell_story(tmp_path_factory.mktemp("story"))


class Table(dict[str, Stranger]):
    """The table, shown short: a failing example names parser and octets itself."""

    def __repr__(self) -> str:
        return f"<{len(self)} parsers>"


@pytest.fixture(scope="module")
def table(story: Story) -> dict[str, Stranger]:
    return Table(strangers(story))


@contextmanager
def watched(what: str) -> Iterator[None]:
    """Turn a parser that does not come back into a failure with a traceback."""

    def give_up(number: int, frame: object) -> None:
        raise AssertionError(f"{what} does not come back")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_good_documents_are_read(table: dict[str, Stranger]) -> None:
    for stranger in table.values():
        for seed in stranger.seeds if stranger.good else ():
            stranger.parse(seed)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(mutation=mutations())
def test_mutated_documents_are_read_or_refused_by_name(table: dict[str, Stranger], mutation: Mutation) -> None:
    for stranger in table.values():
        for seed in stranger.seeds:
            mutated = apply(seed, mutation)
            with watched(stranger.reads), naming(stranger, mutated), suppress(*stranger.errors):
                stranger.parse(mutated)


@contextmanager
def naming(stranger: Stranger, data: bytes) -> Iterator[None]:
    """Tell which parser and which octets."""
    try:
        yield
    except Exception as problem:
        problem.add_note(f"{stranger.reads} was given {data[:2000]!r} ({len(data)} octets)")
        raise


def test_memory_stays_bounded_whatever_lengths_claim(table: dict[str, Stranger]) -> None:
    for stranger in table.values():
        for data in evil_versions(stranger.seeds):
            tracemalloc.start()
            try:
                with watched(stranger.reads), naming(stranger, data), suppress(*stranger.errors):
                    stranger.parse(data)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < MOST_OCTETS, (stranger.reads, peak, data[:200])


@cache
def public_parsers() -> frozenset[str]:
    """Return all public functions of wire, tlog and pki that are named as parsers are, as ``module.function``."""
    found = set()
    for room in ("wire", "tlog", "pki"):
        for path in (SOURCE / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and _is_parser(node):
                    found.add(f"{room}.{path.stem}.{node.name}")
    return frozenset(found)


def _is_parser(node: ast.FunctionDef) -> bool:
    begins = ("parse_", "open_", "decode_", "read_", "load_")
    return node.name in ("from_bytes", "from_pem", "decode", "parse") or node.name.startswith(begins)


def test_every_parser_is_in_the_table(table: dict[str, Stranger]) -> None:
    known = {".".join(name.split(".")[:3]) for name in table}
    assert sorted(public_parsers() - known - set(NOT_FROM_STRANGERS)) == []
    assert sorted(set(NOT_FROM_STRANGERS) - public_parsers()) == []
