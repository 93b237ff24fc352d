"""What is under way with a signing service, in files beside the ledger: ``ORDER.INTENT.req`` and ``.ans``.

``.req`` is written whole; ``.ans`` grows by one checked record an answer: position (uint16) | length (uint32) |
certificate | the first 8 octets of the SHA-256 of all that. Private keys stand in ``.req`` sealed, as in the vault.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from birthmark.adapters.durable import naming_os_errors, sync_directory, write_durably
from birthmark.ports import KeptRequests, SealedChunk

__all__ = ["FileRequestStore"]

_CHECK, _HEAD = 8, 6


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    requests: tuple[bytes, ...]
    sealed: tuple[bytes, int, bytes] | None


_decoder = msgspec.msgpack.Decoder(_Kept)


class FileRequestStore:
    """Implements ``ports.RequestStore`` in one directory, made when it is first needed.

    Power cut: a file is there whole or not at all; an answer is there whole or left out, and asked for again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, order: str, intent: int, kept: KeptRequests) -> None:
        with naming_os_errors(self._directory):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._path(order, intent, "ans").unlink(missing_ok=True)
        sealed = None if kept.sealed is None else (kept.sealed.encapsulated, kept.sealed.slot_size, kept.sealed.slots)
        body = msgspec.msgpack.encode(_Kept(kept.requests, sealed))
        write_durably(self._path(order, intent, "req"), sha256(body).digest() + body, mode=0o600)

    def kept(self, order: str, intent: int) -> KeptRequests | None:
        data = self._read(self._path(order, intent, "req"))
        if sha256(data[32:]).digest() != data[:32]:
            return None
        found = _decoder.decode(data[32:])
        return KeptRequests(found.requests, None if found.sealed is None else SealedChunk(*found.sealed))

    def add_answer(self, order: str, intent: int, position: int, certificate: bytes) -> None:
        path = self._path(order, intent, "ans")
        record = position.to_bytes(2, "big") + len(certificate).to_bytes(4, "big") + certificate
        with naming_os_errors(path):
            known, whole = path.exists(), sum(size for _, _, size in self._records(path))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # A torn record of an earlier run ends here: nothing behind it would be read.
                os.ftruncate(descriptor, whole)
                with os.fdopen(descriptor, "wb", closefd=False) as file:
                    file.seek(whole)
                    file.write(record + sha256(record).digest()[:_CHECK])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if not known:
            sync_directory(self._directory)

    def answers(self, order: str, intent: int) -> dict[int, bytes]:
        return {position: der for position, der, _ in self._records(self._path(order, intent, "ans"))}

    def intents(self, order: str) -> list[int]:
        with naming_os_errors(self._directory):
            names = [path.name for path in self._directory.glob(f"{order}.*.req")]
        return sorted(int(name.split(".")[1]) for name in names)

    def remove(self, order: str, intent: int) -> None:
        for suffix in ("ans", "req"):
            path = self._path(order, intent, suffix)
            with naming_os_errors(path):
                path.unlink(missing_ok=True)

    def _records(self, path: Path) -> list[tuple[int, bytes, int]]:
        """Return (position, certificate, octets of the record) up to the first that is not whole."""
        data, at, found = self._read(path), 0, []
        while at + _HEAD <= len(data):
            end = at + _HEAD + int.from_bytes(data[at + 2 : at + _HEAD], "big")
            if sha256(data[at:end]).digest()[:_CHECK] != data[end : end + _CHECK]:
                break
            found.append((int.from_bytes(data[at : at + 2], "big"), data[at + _HEAD : end], end + _CHECK - at))
            at = end + _CHECK
        return found

    def _read(self, path: Path) -> bytes:
        with naming_os_errors(path), suppress(FileNotFoundError):
            return path.read_bytes()
        return b""

    def _path(self, order: str, intent: int, suffix: str) -> Path:
        return self._directory / f"{order}.{intent}.{suffix}"
