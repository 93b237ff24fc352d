"""Run seeds: each is a world of its own, and one that fails says how to see it again."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from birthmark.workflow.line import receive
from birthmark.workflow.orders import permits
from simulation.faults import hooked
from simulation.mutations import MUTATIONS
from simulation.template import build_template
from simulation.world import World

__all__ = ["Result", "main", "run_seed", "run_seeds"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a seed. ``failure``: None, or invariant and detail. ``codes``: outcomes of its commands."""

    seed: int
    steps: int
    failure: str | None
    codes: Counter[str]
    kind: str


def run_seed(
    root: Path,
    seed: int,
    *,
    trace: Callable[[str], None] = lambda text: None,
    loud: bool = False,
    mutation: str | None = None,
) -> Result:
    """Live through one seed below the directory that ``build_template`` yielded.

    ``mutation``: a bug to put into the program, of ``simulation.mutations``.
    """
    place = root / f"seed-{seed}-{os.getpid()}"
    with _without_lint(), hooked(), MUTATIONS[mutation]() if mutation else nullcontext():
        world = World(root / "template", place, seed, trace=trace)
        failure = None
        try:
            world.live()
        except Exception as problem:  # noqa: BLE001  whatever it is, the seed is told
            failure = f"{type(problem).__name__}: {problem}"
            if loud:
                traceback.print_exc()
        finally:
            world.close()
            shutil.rmtree(place, ignore_errors=True)
    return Result(seed, world.step, failure, world.codes, world.kind)


@contextmanager
def _without_lint() -> Iterator[None]:
    """Leave the lint of certificates out: it depends on nothing but the certificate, and has tests of its own."""
    modules: tuple[Any, ...] = (permits, receive)
    kept = [module.lint_certificate for module in modules]
    for module in modules:
        module.lint_certificate = lambda *arguments, **options: []
    try:
        yield
    finally:
        for module, lint in zip(modules, kept, strict=True):
            module.lint_certificate = lint


def run_seeds(root: Path, seeds: range, *, processes: int, mutation: str | None = None) -> Iterator[Result]:
    """Live through many seeds, on several processors; results come in the order of the seeds."""
    run = partial(run_seed, root, mutation=mutation)
    if processes < 2:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run, seeds, chunksize=4)


def main() -> int:
    """Run from the command line; return the exit code."""
    arguments = _arguments()
    if arguments.seed is not None:
        return _one(arguments.seed, trace=arguments.trace, mutation=arguments.mutation)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    began, failed, codes, kinds = time.monotonic(), 0, Counter[str](), Counter[str]()
    with build_template() as root:
        for result in run_seeds(root, seeds, processes=arguments.processes, mutation=arguments.mutation):
            codes += result.codes
            kinds[result.kind] += 1
            if result.failure is not None:
                failed += 1
                _tell(result)
    seconds = time.monotonic() - began
    print(f"{len(seeds)} seeds ({dict(kinds)}), {sum(codes.values())} commands, {failed} failed; "
          f"{len(seeds) / seconds:.1f} seeds/s")  # fmt: skip
    if arguments.codes:
        print("\n".join(f"{count:8} {code}" for code, count in codes.most_common()))
    return 1 if failed else 0


def _one(seed: int, *, trace: bool, mutation: str | None) -> int:
    with build_template() as root:
        show: Callable[[str], None] = print if trace else lambda text: None
        result = run_seed(root, seed, trace=show, loud=True, mutation=mutation)
    if result.failure is not None:
        _tell(result)
        return 1
    print(f"seed {seed}: every invariant held")
    return 0


def _tell(result: Result) -> None:
    print(
        f"seed {result.seed}, step {result.steps}: {result.failure}\n  see it again: make simulate SEED={result.seed}"
    )
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this seed")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every step")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="put a bug into the program first")
    parser.add_argument("--codes", action="store_true", help="count the outcomes of all commands")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="how many at once")
    return parser.parse_args()
