"""What a batch of a site's entries made of devices: the lines of ``site_settled`` and how they are put on record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from birthmark.errors import Refused
from birthmark.model.device import DeviceState
from birthmark.model.events import SiteSettled, utc_text
from birthmark.ports import Clock, Transaction
from birthmark.workflow.homecoming.siteauthority import OwnRecord
from birthmark.workflow.homecoming.sitefindings import Contradiction

__all__ = ["SettleLine", "SettleWriter"]

_MOST_DEVICES = 256
_AFTER_RECEIPT = frozenset({DeviceState.VERIFIED})


@dataclass(frozen=True, slots=True)
class SettleLine:
    """A device, its state at the site, the entry that brought it there, and its key (SPKI SHA-256) if it is new."""

    device: str
    order: str
    state: DeviceState
    entry: int
    key: bytes | None = None

    def without_receipt(self) -> SettleLine:
        """Return the line of a device whose receipt does not hold: it is installed at most."""
        return replace(self, state=DeviceState.INSTALLED) if self.state in _AFTER_RECEIPT else self

    def text(self) -> str:
        """Return the line as it stands in the attachment."""
        return f"{self.device} {self.state} {self.entry} {'-' if self.key is None else self.key.hex()}"


class SettleWriter:
    """Appends ``site_settled`` events; what the ledger refuses of a device becomes a finding about it alone."""

    def __init__(self, own: OwnRecord, *, clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self.settled = self.events = 0

    def append(self, tx: Transaction, lines: Iterable[SettleLine], upto: int) -> list[Contradiction]:
        """Settle devices, each once, up to entry ``upto``; return what contradicts the record."""
        found: list[Contradiction] = []
        for group in _grouped(lines):
            if self._try(tx, group, upto) is not None:
                found += self._one_by_one(tx, group, upto)
        return found

    def close(self, tx: Transaction, order: str, upto: int) -> None:
        """Move the cursor to ``upto`` where no device changed."""
        tx.append(SiteSettled(at=utc_text(self._clock()), site=self._own.site.site, order=order, upto=upto, count=0))

    def _try(self, tx: Transaction, group: list[SettleLine], upto: int) -> Refused | None:
        event = SiteSettled(
            at=utc_text(self._clock()),
            site=self._own.site.site,
            order=group[0].order,
            upto=upto,
            count=len(group),
        )
        try:
            with tx.part():
                tx.append(event, "\n".join(line.text() for line in group).encode())
        except Refused as refusal:
            return refusal
        self.settled += len(group)
        self.events += 1
        return None

    def _one_by_one(self, tx: Transaction, group: list[SettleLine], upto: int) -> Iterator[Contradiction]:
        for line in group:
            refusal = self._try(tx, [line], upto)
            found = None if refusal is None else self._contradiction(line, refusal)
            if found is not None:
                yield found

    def _contradiction(self, line: SettleLine, refusal: Refused) -> Contradiction | None:
        if refusal.code == "key.reused":
            what = "its key belongs to another identity already"
            return Contradiction("site.double", what, entry=line.entry, device=line.device)
        device = self._own.device(line.device)
        if device is None or device.order != line.order:
            what = f"order {line.order} does not have this device"
            return Contradiction("site.device.foreign", what, entry=line.entry, device=line.device)
        if device.state is DeviceState.SCRAPPED:
            return None  # scrapped here meanwhile: that is the last word
        raise refusal


def _grouped(lines: Iterable[SettleLine]) -> Iterator[list[SettleLine]]:
    """Yield lines of one order, 256 at most."""
    open_groups: dict[str, list[SettleLine]] = {}
    for line in lines:
        group = open_groups.setdefault(line.order, [])
        if len(group) == _MOST_DEVICES:
            yield group
            group = open_groups[line.order] = []
        group.append(line)
    yield from (group for group in open_groups.values() if group)
