"""The records of a running emulator for the test beside it: changes that no client made, and what is really there.

Nothing here counts as a call: no limit, no fault, no token, no etag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.device import registration_document
from birthmark.testing.dps.enrollments import Enrollment, Kind, read_enrollment
from birthmark.testing.dps.store import CaRecord, Registration, Table

__all__ = ["Enrollments", "Registrations"]

_PAGE = 1000
_PLAIN = msgspec.json.Decoder(dict[str, Any])
Run = Callable[[Callable[[], Any]], Any]
"""Runs a function where the records live (the thread of the emulator) and returns what it returns."""


class _Records:
    def __init__(self, table: Table[Any], run: Run, shown: Callable[[Any], dict[str, Any]]) -> None:
        self._table, self._run, self._shown = table, run, shown

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: str) -> bool:
        return self._table.get(name) is not None

    def get(self, name: str) -> dict[str, Any]:
        """Return one document as the API shows it; ``KeyError`` if there is none."""
        row = self._run(lambda: self._table.get(name))
        if row is None:
            raise KeyError(name)
        return self._plain(row)

    def list(self) -> Iterator[dict[str, Any]]:
        """Yield every document, by name, a page at a time."""
        after: str | None = ""
        while after is not None:
            rows, after = self._run(partial(self._table.page, after, _PAGE))
            yield from (self._plain(row) for row in rows)

    def delete(self, name: str) -> None:
        """Remove one; ``KeyError`` if there is none."""
        try:
            self._run(partial(self._table.delete, name))
        except Problem:
            raise KeyError(name) from None

    def _plain(self, row: Any) -> dict[str, Any]:
        return dict(_PLAIN.decode(msgspec.json.encode(self._shown(row))))


class Enrollments(_Records):
    """Individual enrolments, or groups."""

    def __init__(
        self, kind: Kind, table: Table[Enrollment], run: Run, hubs: tuple[str, ...], cas: Table[CaRecord]
    ) -> None:
        super().__init__(table, run, lambda row: row.shown())
        self._kind, self._hubs, self._cas = kind, hubs, cas
        self._key = "registrationId" if kind == "individual" else "enrollmentGroupId"

    def put(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Add or replace one, given as the API takes it; return it as the API shows it.

        A document that the service would refuse is ``ValueError`` with its message.
        """
        name = str(document.get(self._key))

        def put() -> Enrollment:
            row = read_enrollment(self._kind, name, dict(document), self._table.get(name), self._hubs)
            for reference in row.references.values():
                self._cas.need(reference)
            self._table.put(name, row)
            return row

        try:
            return self._plain(self._run(put))
        except Problem as problem:
            raise ValueError(f"{problem.code}: {problem.message}") from None


class Registrations(_Records):
    """What devices were assigned."""

    def __init__(self, table: Table[Registration], run: Run) -> None:
        super().__init__(table, run, registration_document)
