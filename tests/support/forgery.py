"""Changes of a log, entry by entry, as somebody who holds its key could make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["AT", "Entries", "appended", "changed", "document_of", "entry_of", "find", "without"]

Entries = list[bytes]
AT = "2026-11-24T02:00:01.000Z"


def document_of(entry: bytes) -> dict[str, Any]:
    return dict(json.loads(entry.partition(b"\n")[0]))


def entry_of(members: dict[str, Any], attachment: bytes) -> bytes:
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode() + b"\n" + attachment


def find(entries: Entries, kind: str, **members: Any) -> int:
    return next(
        at for at, entry in enumerate(entries)
        if (d := document_of(entry))["type"] == kind and all(d.get(name) == value for name, value in members.items())
    )  # fmt: skip


def changed(
    kind: str, attachment: bytes | None = None, /, **members: Any
) -> Callable[..., Callable[[Entries], Entries]]:
    """Return a maker of changes: of the entry (kind, members) the given members get other values."""

    def with_values(**values: Any) -> Callable[[Entries], Entries]:
        def change(entries: Entries) -> Entries:
            at = find(entries, kind, **members)
            document, _, old = entries[at].partition(b"\n")
            new = {**json.loads(document), **values}
            entries[at] = entry_of(new, old if attachment is None else attachment)
            return entries

        return change

    return with_values


def without(kind: str, **members: Any) -> Callable[[Entries], Entries]:
    """Replace an entry by one that says nothing, so that all others keep their numbers."""

    def change(entries: Entries) -> Entries:
        at = find(entries, kind, **members)
        entries[at] = entry_of({"at": "2026-11-24T02:00:00.000Z", "code": "x", "station": "s", "type": "rejected"}, b"")
        return entries

    return change


def appended(*new: bytes) -> Callable[[Entries], Entries]:
    return lambda entries: [*entries, *new]
