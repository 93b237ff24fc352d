"""What a cloud was told goes into the log, so that an auditor sees it without the cloud and without the book.

Power cut between log and book: the next run puts the same settlements into the log once more; none is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from birthmark.model.events import Registered, utc_text
from birthmark.ports import Clock, Ledger, RegisterBook, ToldDevice

__all__ = ["OnRecord"]

_MOST_DEVICES = 2000
_MOST_OCTETS = 60_000
"""An entry of the log has at most 65,535 octets."""


@dataclass(frozen=True, slots=True)
class OnRecord:
    """Writes ``registered`` entries for the settlements of a book that are in no entry yet."""

    ledger: Ledger
    book: RegisterBook
    cloud: str
    clock: Clock
    by: str

    def flush(self) -> int:
        """Return for how many devices there are new lines in the log."""
        total = 0
        while told := self.book.unlogged(_MOST_DEVICES):
            part, lines = _fitting(told)
            attachment = "\n".join(lines).encode()
            event = Registered(
                at=utc_text(self.clock()),
                cloud=self.cloud,
                count=len(part),
                refused=sum(one.outcome == "refused" for one in part),
                lines_sha256=sha256(attachment).hexdigest(),
                by=self.by,
            )
            with self.ledger.transaction() as tx:
                tx.append(event, attachment)
            self.book.mark_logged(part)
            total += len(part)
        return total


def _fitting(told: Sequence[ToldDevice]) -> tuple[Sequence[ToldDevice], list[str]]:
    lines: list[str] = []
    octets = 0
    for one in told:
        line = f"{one.device_serial} {one.revision} {one.standing} {one.outcome}"
        octets += len(line) + 1
        if octets > _MOST_OCTETS:
            break
        lines.append(line)
    return told[: len(lines)], lines
