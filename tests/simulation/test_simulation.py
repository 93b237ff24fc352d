"""A few worlds in every test run, and proof that the simulation finds bugs that somebody could write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulation.mutations import MUTATIONS
from simulation.run import Result, run_seed
from simulation.template import build_template

_TOLD = {
    "commit-lost": range(1, 7),
    "draw-without-record": range(4, 20),
    "finding-dropped": [1001, 1005],
    "key-erased-early": range(1, 3),
    "never-settled": range(1, 3),
}
"""Bug → seeds of which one at least must fail."""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with build_template() as place:
        yield place


@pytest.mark.parametrize("first", [1, 5, 1001, 1012, 1020])
def test_every_invariant_holds_whatever_goes_wrong(root: Path, first: int) -> None:
    results = [run_seed(root, seed) for seed in range(first, first + 3)]
    failed = [result for result in results if result.failure is not None]
    assert not failed, "\n".join(f"{result.failure}; make simulate SEED={result.seed}" for result in failed)


def test_a_seed_is_the_same_world_every_time(root: Path) -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run_seed(root, 7, trace=trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 100


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_a_bug_that_somebody_could_write_is_found(root: Path, mutation: str) -> None:
    results: Iterator[Result] = (run_seed(root, seed, mutation=mutation) for seed in _TOLD[mutation])
    assert any(result.failure is not None for result in results)


def test_a_failing_seed_says_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulation.run import main

    monkeypatch.setattr("sys.argv", ["simulation", "--seed", "1", "--trace", "--mutation", "never-settled"])
    assert main() == 1
    told = capsys.readouterr().out
    assert "step 1 " in told
    assert "make simulate SEED=1" in told
