"""Compare what a cloud holds with what it should hold, both ways, streaming: memory does not grow with either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from birthmark.errors import Misconfigured, Refused, Unavailable
from birthmark.ports import BookState, Cloud, CloudPage, CloudRecord, RegisterBook, ScratchRecords
from birthmark.workflow.register.fold import BookFold, pages_of
from birthmark.workflow.register.pace import Pace
from birthmark.workflow.register.wanted import WantedNow

__all__ = ["Difference", "Reconciliation"]

_PAGE = 400
_TOUCH = 5000
_LONGEST_NAME = 200

DifferenceKind = Literal["missing", "foreign", "different"]

_OPEN = ("due", "asked", None)
"""Where a device stands of which the cloud was not told yet what is true now."""
_FOREIGN = {
    True: "the ledger has the device, and the cloud should have no record of it",
    False: "no device of the ledger has it",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where cloud and ledger do not agree.

    ``missing``: the cloud has no record of a device that it was told of. ``foreign``: it has one that the ledger does
    not account for. ``different``: ``what`` says in which member. ``state``: where the device stands in the book.
    """

    kind: DifferenceKind
    name: str
    device_serial: str | None
    what: str
    state: BookState | None


@dataclass(slots=True)
class Reconciliation:
    """One comparison; nothing is changed.

    ``counts``: what was found, by kind, and ``alike``, ``waiting`` (not told yet), ``expected``, ``held``, ``refused``
    (devices that the cloud would never take). ``release`` gives free what reading certificates held.
    """

    cloud: Cloud
    book: RegisterBook
    fold: BookFold
    scratch: ScratchRecords
    pace: Pace
    patience_s: float = 600.0
    release: Callable[[], None] = lambda: None
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, progress: Callable[[str, int], None] = lambda step, count: None) -> Iterator[Difference]:
        """Yield every difference. ``Unavailable``: the cloud gave no page for longer than there is patience."""
        head = self.fold.feed.head()
        touched = (serial for _, devices in self.fold.feed.touched(0, head.size) for serial in devices)
        for page in pages_of(touched, _TOUCH):
            self.scratch.touch(page)
        self._expect(progress)
        after: str | None = ""
        while after is not None:
            held = self._page(after)
            progress("compared", len(held.records))
            self.counts["held"] += len(held.records)
            yield from self._compare(held.records)
            if held.after == after:
                raise Misconfigured(
                    "register.page.loop",
                    f"{self.cloud.name} answers with the same page again and again",
                    hint="This is no cloud of that kind, or something between it and here answers in its place.",
                    cloud=self.cloud.name,
                )
            after = held.after
        yield from self._missing()

    def _expect(self, progress: Callable[[str, int], None]) -> None:
        wanted, after = WantedNow(self.fold.feed), ""
        while devices := self.scratch.devices(after, _PAGE):
            after = devices[-1]
            inside = list(self.fold.in_scope(devices))
            known = self.book.known(inside)
            found = wanted.of({serial: known[serial].told_seq if serial in known else None for serial in inside})
            records: list[tuple[str, CloudRecord]] = []
            for serial, item in found.items():
                try:
                    record = None if isinstance(item, Refused) else self.cloud.expected(item.registration)
                except Refused:
                    record = None
                    self.counts["refused"] += 1
                if record is not None:
                    records.append((serial, record))
            self.scratch.expect(records)
            self.counts["expected"] += len(records)
            progress("expected", len(devices))
        self.release()

    def _page(self, after: str) -> CloudPage:
        """Ask for a page until it comes; a page that is asked for twice is the same to us."""
        silent_since: float | None = None
        while True:
            self.pace.take(1)
            try:
                page = self.cloud.page(after)
            except Unavailable as problem:
                asked, now = problem.facts.get("retry_after"), self.pace.clock()
                silent_since = now if silent_since is None else silent_since
                if now - silent_since > self.patience_s:
                    raise
                self.pace.back_off(float(asked) if isinstance(asked, int | float) else None)
                continue
            self.pace.answered()
            self.pace.charge(page.calls - 1)
            return page

    def _compare(self, records: Sequence[CloudRecord]) -> Iterator[Difference]:
        for at in range(0, len(records), _PAGE):
            part = [one for one in records[at : at + _PAGE] if _is_name(one.key) and _is_name(one.name)]
            for strange in records[at : at + _PAGE]:
                if not (_is_name(strange.key) and _is_name(strange.name)):
                    yield self._found("foreign", ascii(strange.name[:_LONGEST_NAME]), None, _FOREIGN[False], None)
            expected = self.scratch.match(part)
            states = self._states([item[0] for item in expected if item is not None])
            unverified = self.fold.feed.records.devices(
                [record.name for record, item in zip(part, expected, strict=True) if item is None]
            )
            for record, item in zip(part, expected, strict=True):
                if item is None:
                    what = _FOREIGN[record.name in unverified]
                    yield self._found("foreign", record.name, None, what, None)
                    continue
                serial, ours = item
                what = _difference(ours, record)
                if not what:
                    self.counts["alike"] += 1
                elif states.get(serial) in _OPEN:
                    self.counts["waiting"] += 1
                else:
                    yield self._found("different", record.name, serial, what, states.get(serial))

    def _missing(self) -> Iterator[Difference]:
        after = ""
        while page := self.scratch.unseen(after, _PAGE):
            after = page[-1][1].key
            states = self._states([serial for serial, _ in page])
            for serial, record in page:
                if states.get(serial) in _OPEN:
                    self.counts["waiting"] += 1
                else:
                    yield self._found("missing", record.name, serial, "the cloud has no record", states.get(serial))

    def _states(self, device_serials: Sequence[str]) -> dict[str, BookState]:
        return {serial: known.state for serial, known in self.book.known(device_serials).items()}

    def _found(
        self, kind: DifferenceKind, name: str, serial: str | None, what: str, state: BookState | None
    ) -> Difference:
        self.counts[kind] += 1
        return Difference(kind, name, serial, what, state)


def _is_name(text: str) -> bool:
    """Say whether text can be a name of a device or record at all: a cloud is a stranger, its names may be anything."""
    return 0 < len(text) <= _LONGEST_NAME and text.isascii() and text.isprintable()


def _difference(ours: CloudRecord, theirs: CloudRecord) -> str:
    parts = []
    if ours.name != theirs.name:
        parts.append(f"it is written {theirs.name}, not {ours.name}")
    if ours.standing != theirs.standing:
        place = f" in {theirs.place}" if theirs.place else ""
        parts.append(f"it is {theirs.standing}{place}, not {ours.standing}")
    if ours.certificates != theirs.certificates:
        parts.append(f"it has {_named(theirs.certificates)}, not {_named(ours.certificates)}")
    return "; ".join(parts)


def _named(certificates: Sequence[str]) -> str:
    return "certificate " + " and ".join(value[:16] for value in certificates) if certificates else "no certificate"
