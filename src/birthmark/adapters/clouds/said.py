"""What a cloud says, made fit to be shown and kept: printable, of one line, and short."""

from __future__ import annotations

from birthmark.adapters.told import one_line
from birthmark.errors import Unavailable

__all__ = ["name_in", "shown"]

_MOST_SHOWN = 200
_MOST_NAME = 256


def shown(text: object) -> str:
    """Return ``text`` as it may stand in an error: at most 200 characters, nothing that moves a cursor."""
    return one_line(text, _MOST_SHOWN)


def name_in(answer: str | None, what: str) -> str:
    """Return a name that goes on record; ``Unavailable("cloud.admit.answer")`` if it is none (256 of ASCII)."""
    if not answer or len(answer) > _MOST_NAME or not (answer.isascii() and answer.isprintable()):
        raise Unavailable(
            "cloud.admit.answer",
            f"the cloud answered without {what} that can be used",
            hint="Check that the address is that of the cloud, and look at what stands between it and the station.",
            what=what,
        )
    return answer
