"""Records sorted into shards on disk, so that a later pass needs the memory of one shard only."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Spill", "read_records", "read_shard", "shard_count", "shard_of"]

_FLUSH_OCTETS = 1 << 16
_PER_SHARD = 1 << 16

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def shard_count(entries: int) -> int:
    """Return how many shards keep each at some 65,536 records: a power of two, at most 256."""
    return min(256, 1 << max(0, (entries // _PER_SHARD).bit_length()))


def shard_of(name: str, shards: int) -> int:
    """Return the shard of a device serial or an attempt id."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) & (shards - 1)


class Spill:
    """Appends to one file a kind, shard and process. Use as a context."""

    def __init__(self, directory: Path, shards: int) -> None:
        self.shards = shards
        self._directory = directory
        self._buffers: dict[tuple[str, int], bytearray] = {}

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        for (kind, shard), buffer in self._buffers.items():
            self._flush(kind, shard, buffer)

    def buffer(self, kind: str, shard: int) -> bytearray:
        """Return the buffer of a shard with room in it; the caller appends to it."""
        found = self._buffers.get((kind, shard))
        if found is None:
            found = self._buffers[kind, shard] = bytearray()
        elif len(found) > _FLUSH_OCTETS:
            self._flush(kind, shard, found)
        return found

    def record(self, kind: str, shard: int, record: tuple[Any, ...]) -> None:
        """Append one record of any plain values."""
        packed = _encode(record)
        buffer = self.buffer(kind, shard)
        buffer += len(packed).to_bytes(4, "big")
        buffer += packed

    def _flush(self, kind: str, shard: int, buffer: bytearray) -> None:
        with (self._directory / f"{kind}-{shard:03d}-{os.getpid()}").open("ab") as file:
            file.write(buffer)
        buffer.clear()


def read_shard(directory: Path, kind: str, shard: int) -> bytes:
    """Return what all processes wrote into a shard, in no order."""
    return b"".join(path.read_bytes() for path in sorted(directory.glob(f"{kind}-{shard:03d}-*")))


def read_records(directory: Path, kind: str, shard: int) -> Iterator[Any]:
    """Yield the records of a shard, in no order."""
    data = read_shard(directory, kind, shard)
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        yield _decode(data[at + 4 : end])
        at = end
