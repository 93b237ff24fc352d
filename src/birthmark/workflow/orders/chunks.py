"""The chunks of an order that are still to be made, in their order, whoever signs them."""

from __future__ import annotations

from collections import deque

from birthmark.errors import Refused
from birthmark.model.records import ChunkRecord, OrderRecord
from birthmark.ports import Records

__all__ = ["OpenChunks", "require_injected"]

_PAGE = 64


def require_injected(order: OrderRecord) -> None:
    """Return if the keys of ``order`` are made here; ``Refused("order.key_origin")`` if the devices make them."""
    if order.key_origin != "injected":
        raise Refused(
            "order.key_origin",
            f"the keys of order {order.order} are born in the devices",
            hint="Run `birthmark station provision`; the device makes its key and asks.",
            order=order.order,
        )


class OpenChunks:
    """Gives each open chunk of an order once; it reads some at a time, so that memory does not grow with the order."""

    def __init__(self, records: Records, order: str) -> None:
        self._records = records
        self._order = order
        self._read: deque[ChunkRecord] = deque()
        self._last = -1

    def next(self) -> ChunkRecord | None:
        """Return the next one, None behind the last."""
        if not self._read:
            page = self._records.chunks(self._order, "ordered", self._last, _PAGE)
            self._read.extend(page)
            if not page:
                return None
            self._last = page[-1].chunk
        return self._read.popleft()
