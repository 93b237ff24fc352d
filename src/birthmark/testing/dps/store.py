"""What one emulated service holds, in memory: enrolments, CA certificates, registrations, operations."""

from __future__ import annotations

import uuid
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from birthmark.testing.dps.answers import Problem, utc_now
from birthmark.testing.dps.enrollments import Enrollment
from birthmark.testing.dps.hub import HubRegistry

__all__ = ["CaRecord", "Operation", "Registration", "Store", "Table"]

_T = TypeVar("_T")
_OPERATIONS_KEPT = 100_000


class Table(Generic[_T]):
    """Records by a name in which case does not count, with an upper bound.

    Their order by name is made when a page is asked for and kept: a page costs what it holds, not what the table holds.
    """

    def __init__(self, what: str, most: int, etag: Callable[[_T], str]) -> None:
        self._rows: dict[str, _T] = {}
        self._what, self._most, self._etag = what, most, etag
        self._order: list[str] = []
        self._new: set[str] = set()
        self._gone: set[str] = set()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, name: str) -> _T | None:
        """Return the record or None."""
        return self._rows.get(name.lower())

    def need(self, name: str) -> _T:
        """Return the record or raise ``Problem(404201)``."""
        row = self.get(name)
        if row is None:
            raise Problem(404201, f"{self._what} not found.")
        return row

    def expect(self, name: str, if_match: str | None) -> None:
        """Raise ``Problem(412001)`` unless ``if_match`` (None: not asked for) is ``*`` or the record's etag."""
        row = self.get(name)
        if if_match is None or (row is not None and if_match in ("*", self._etag(row))):
            return
        if row is not None and if_match.strip('"') == self._etag(row).strip('"'):
            return
        raise Problem(412001, "Precondition failed: the etag does not match.")

    def put(self, name: str, row: _T) -> None:
        """Add or replace; a full table is ``Problem(400007)``."""
        key = name.lower()
        if key not in self._rows:
            if len(self._rows) >= self._most:
                raise Problem(400007, f"Quota exceeded: {self._what}, {self._most} at most.")
            if key in self._gone:
                self._gone.remove(key)
            else:
                self._new.add(key)
        self._rows[key] = row

    def delete(self, name: str) -> None:
        """Remove the record or raise ``Problem(404201)``."""
        self.need(name)
        key = name.lower()
        del self._rows[key]
        if key in self._new:
            self._new.remove(key)
        else:
            self._gone.add(key)

    def page(
        self, after: str, count: int, keep: Callable[[_T], bool] = lambda row: True
    ) -> tuple[list[_T], str | None]:
        """Return up to ``count`` records behind the name ``after``, by name, and the name to go on from."""
        self._sort()
        chosen: list[_T] = []
        last: str | None = None
        for number in range(bisect_right(self._order, after), len(self._order)):
            name = self._order[number]
            row = self._rows.get(name)
            if row is None or not keep(row):
                continue
            if len(chosen) == count:
                return chosen, last
            chosen.append(row)
            last = name
        return chosen, None

    def all(self) -> list[_T]:
        """Return every record, in order of arrival."""
        return list(self._rows.values())

    def _sort(self) -> None:
        """Bring the order up to date: what is in order already costs one comparison a name, and only after a change."""
        if len(self._gone) * 2 > len(self._order):
            self._order = [name for name in self._order if name not in self._gone]
            self._gone.clear()
        if self._new:
            self._order.extend(sorted(self._new))
            self._order.sort()
            self._new.clear()


@dataclass(slots=True)
class CaRecord:
    """A CA certificate (DER). ``code``: its verification code, once asked for."""

    name: str
    certificate: bytes
    verified: bool = False
    code: str | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    etag: str = field(default_factory=lambda: uuid.uuid4().hex)

    def touch(self) -> None:
        """Give it a new etag."""
        self.updated, self.etag = datetime.now(UTC), uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Registration:
    """Where a device was assigned. ``certificate``: the one it showed (DER), empty if it showed a token."""

    registration_id: str
    device_id: str
    hub: str
    substatus: str
    certificate: bytes
    group: str | None
    created: str
    payload: Any = None
    updated: str = field(default_factory=utc_now)
    etag: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class Operation:
    """One registration under way: ``ready`` is when it is assigned, on the monotonic clock.

    ``issued``: the certificate that was asked for and its chain (DER).
    """

    operation_id: str
    registration_id: str
    ready: float
    issued: tuple[bytes, ...] = ()


class Store:
    """Everything; one per emulator. ``verified_chains``: paths of devices in groups have to end at a verified CA.

    ``hubs``: names of the linked IoT hubs; each has a registry of its own here.
    """

    def __init__(
        self,
        enrollments: int,
        groups: int,
        certificates: int,
        registrations: int,
        *,
        verified_chains: bool = True,
        hubs: Sequence[str] = (),
    ) -> None:
        self.verified_chains = verified_chains
        self.individual: Table[Enrollment] = Table("Enrollment", enrollments, lambda row: row.etag)
        self.groups: Table[Enrollment] = Table("Enrollment group", groups, lambda row: row.etag)
        self.certificates: Table[CaRecord] = Table("Certificate", certificates, lambda row: row.etag)
        self.registrations: Table[Registration] = Table("Registration", registrations, lambda row: row.etag)
        self.operations: OrderedDict[str, Operation] = OrderedDict()
        self.hubs = {name: HubRegistry(name, registrations) for name in hubs}

    def begin(self, operation: Operation) -> None:
        """Keep an operation; the oldest ones are forgotten."""
        self.operations[operation.operation_id] = operation
        if len(self.operations) > _OPERATIONS_KEPT:
            self.operations.popitem(last=False)
