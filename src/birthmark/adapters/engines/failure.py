"""How a worker tells what went wrong, without the text of foreign errors: it may hold a secret."""

from __future__ import annotations

from dataclasses import dataclass

from birthmark.errors import BirthmarkError, Fact, StationFault

__all__ = ["Failure", "failure_of"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that travels between processes."""

    family: type[BirthmarkError]
    code: str
    message: str
    hint: str
    facts: dict[str, Fact]

    def error(self) -> BirthmarkError:
        """Return the error again."""
        return self.family(self.code, self.message, hint=self.hint, **self.facts)


def failure_of(problem: Exception) -> Failure:
    """Return what may be told of ``problem``."""
    if isinstance(problem, BirthmarkError):
        return Failure(type(problem), problem.code, problem.message, problem.hint, dict(problem.facts))
    return Failure(
        StationFault,
        "engine.worker.failed",
        f"a key-making process ended with {type(problem).__name__}",
        "Run `birthmark order make` again; if it repeats, report it with the version of this program.",
        {"exception": type(problem).__name__},
    )
