"""The thread that shows the log: what passes by itself is tried again, anything else stops whoever works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from birthmark.errors import BirthmarkError, StationFault, Unavailable
from birthmark.shell.workspace.publishing import Publishing

EVERY_S = 0.001
WAIT_S = 10


def says(problems: list[Exception], done: threading.Event) -> Callable[[], AbstractContextManager[Callable[[], None]]]:
    """Return an act that raises one problem after the other, and then nothing any more."""

    def act() -> None:
        if problems:
            raise problems.pop(0)
        done.set()

    return lambda: nullcontext(act)


def ended(shown: Publishing) -> BirthmarkError | None:
    """Wait until the thread has given up by itself."""
    shown._thread.join(WAIT_S)
    assert not shown._thread.is_alive()
    return shown.failure


def test_a_log_that_is_busy_is_shown_later() -> None:
    done = threading.Event()
    shown = Publishing(
        says([Unavailable("ledger.busy", "busy", hint="Again."), Unavailable("a.b", "c", hint="D.")], done), EVERY_S
    )
    assert done.wait(WAIT_S)
    shown.require()
    shown.close()
    shown.require()


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (StationFault("ledger.full", "full", hint="Free space."), "ledger.full"),
        (ZeroDivisionError(), "station.publish"),
    ],
)
def test_what_does_not_pass_by_itself_is_kept_and_nothing_is_tried_again(problem: Exception, code: str) -> None:
    problems = [problem, StationFault("never.seen", "x", hint="Y.")]
    shown = Publishing(says(problems, threading.Event()), EVERY_S)
    failure = ended(shown)
    assert failure is not None
    assert failure.code == code
    assert len(problems) == 1
    with pytest.raises(StationFault, match=code.replace(".", r"\.")):
        shown.require()


def test_a_connection_that_cannot_be_opened_is_told_like_a_log_that_cannot_be_shown() -> None:
    @contextmanager
    def closed() -> Iterator[Callable[[], None]]:
        raise StationFault("ledger.read_only", "closed", hint="Open it.")
        yield lambda: None

    failure = ended(Publishing(closed, EVERY_S))
    assert failure is not None
    assert failure.code == "ledger.read_only"
