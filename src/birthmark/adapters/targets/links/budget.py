"""How often a noisy link may be tried again for one device, and the errors of a link."""

from __future__ import annotations

from birthmark.errors import Unavailable

__all__ = ["RetryBudget", "garbled", "silent"]


class RetryBudget:
    """Counts the repeats of one run: of one target object, which lives as long as one device is in the fixture.

    Only what may be done twice is repeated: reading, writing what is read back afterwards, and making a key that
    nobody has asked a certificate for. ``limit`` 0: nothing is ever repeated.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0

    def spend(self, problem: Unavailable) -> None:
        """Count one repeat because of ``problem``; ``Unavailable("link.budget")`` if it would be one too many."""
        if self.spent >= self.limit:
            raise Unavailable(
                "link.budget",
                f"the link to the device is too noisy: {self.spent} repeats, and again {problem.message}",
                hint="Look at plug, cable and baud rate, then run the same command again: it goes on where it stopped.",
                spent=self.spent,
                limit=self.limit,
                last=problem.code,
            ) from problem
        self.spent += 1


def silent(link: str, seconds: float) -> Unavailable:
    """Return the error of a device that did not answer in time."""
    return Unavailable(
        "link.silent",
        f"no answer came over {link} in {seconds:.1f} seconds",
        hint="Look at power, plug and baud rate of the device, then run the same command again.",
        link=link,
    )


def garbled(link: str, what: str) -> Unavailable:
    """Return the error of an answer that cannot be what the device sent. ``what`` is ours, never the device's."""
    return Unavailable(
        "link.garbled",
        f"what came over {link} is not whole: {what}",
        hint="Look at plug, cable and baud rate, then run the same command again: it goes on where it stopped.",
        link=link,
    )
