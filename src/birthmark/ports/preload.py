"""Where the identities of a manifest wait between the moment they are checked and the one transaction that records
them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["PackedChunk", "Spool"]


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """``count`` identities below one CA, packed as an attachment of a ``preloaded`` entry."""

    ca: str
    count: int
    data: bytes


class Spool(Protocol):
    """Keeps chunks outside the memory, for the life of one intake; it is private to this process.

    Iterating gives all chunks in the order in which they were put, as often as it is asked for. Nothing of it needs to
    outlive a power cut.
    """

    def put(self, chunk: PackedChunk) -> None: ...

    def __iter__(self) -> Iterator[PackedChunk]: ...
