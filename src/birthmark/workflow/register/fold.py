"""From the log into the book of a cloud: which devices have something new, each with the entry that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from birthmark.ports import RegisterBook
from birthmark.wire.registry import LogCursor
from birthmark.workflow.register.changes import ChangeFeed, cursor_at

__all__ = ["BookFold", "InScope", "Scope", "pages_of"]

_STEP = 65_536
_MOST_DEVICES = 20_000
_PAGE = 400
InScope = Callable[[str], bool]
"""Name of an order → whether the cloud is told of its devices."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Of which devices a cloud is told; None: of all. ``cas``: names of issuing CAs, ``products``: of products."""

    cas: tuple[str, ...] | None = None
    products: tuple[str, ...] | None = None

    def text(self) -> str:
        """Return a form that is equal for equal scopes."""
        parts = ("*" if names is None else ",".join(sorted(names)) for names in (self.cas, self.products))
        return "cas={} products={}".format(*parts)

    def holds(self, ca: str, product: str) -> bool:
        """Say whether devices of a product with certificates of a CA are in it."""
        return (self.cas is None or ca in self.cas) and (self.products is None or product in self.products)


@dataclass(frozen=True, slots=True)
class BookFold:
    """Carries a book to the head of the log. Memory is bounded by ``_MOST_DEVICES`` and one entry's devices."""

    feed: ChangeFeed
    book: RegisterBook
    scope: Scope

    def run(self, progress: Callable[[int], None] = lambda entries: None) -> int:
        """Return how many devices became due. ``Tampered``: ``cursor.rolled_back``, ``cursor.forked``.

        Power cut: the book stands where the last transaction left it, and the next run goes on from there.
        """
        cursor, head = self.book.cursor(), self.feed.head()
        if cursor is not None:
            self.feed.require(cursor)
        at = 0 if cursor is None else cursor.size
        became = 0
        while at < head.size:
            latest: dict[str, int] = {}
            upto = min(at + _STEP, head.size)
            for entry, devices in self.feed.touched(at, upto):
                latest.update(dict.fromkeys(devices, entry))
                if len(latest) >= _MOST_DEVICES:
                    upto = entry + 1
                    break
            known = self.in_scope(latest)
            place = head if upto == head.size else self._cursor(upto, head.size)
            became += self.book.fold({serial: latest[serial] for serial in known}, place)
            progress(upto - at)
            at = upto
        return became

    def _cursor(self, size: int, published: int) -> LogCursor:
        return cursor_at(size, published=published, store=self.feed.store)

    def in_scope(self, device_serials: Iterable[str]) -> Iterator[str]:
        """Yield those of the devices that the cloud is told of."""
        inside: dict[str, bool] = {}
        for page in pages_of(device_serials, _PAGE):
            known = self.feed.records.devices(page)
            for serial in page:
                device = known.get(serial)
                if device is None:
                    continue
                if device.order not in inside:
                    order = self.feed.records.order(device.order)
                    inside[device.order] = order is not None and self.scope.holds(order.ca, order.product)
                if inside[device.order]:
                    yield serial


def pages_of(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the items in lists of up to ``size``."""
    page: list[str] = []
    for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
