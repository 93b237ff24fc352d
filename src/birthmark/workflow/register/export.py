"""Write what changed since a cursor in three forms at once: JSON lines, CSV, and a PEM bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from birthmark.wire.registry import ChangeLine, ExportedFile, change_text

__all__ = ["CSV_COLUMNS", "FILES", "ExportCounts", "write_changes"]

FILES = ("devices.jsonl", "devices.csv", "certificates.pem")
CSV_COLUMNS = ("change", "entry", "at", "device_serial", "order", "cert_serial", "cert_sha256", "site")
"""No free text: a reason could be read as a formula by a spreadsheet."""


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What was written."""

    changes: int
    verified: int
    files: tuple[ExportedFile, ...]


class _Counted:
    """Passes octets on and knows how many there were, and their hash."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._hash = sha256()
        self._octets = 0

    def write(self, data: bytes) -> None:
        self._write(data)
        self._hash.update(data)
        self._octets += len(data)

    def facts(self, name: str) -> ExportedFile:
        return ExportedFile(name=name, octets=self._octets, sha256=self._hash.hexdigest())


def write_changes(lines: Iterable[ChangeLine], writers: tuple[Callable[[bytes], object], ...]) -> ExportCounts:
    """Write each line in every form as it comes; ``writers`` are those of ``FILES``, in that order."""
    out = [_Counted(write) for write in writers]
    as_json, as_csv, as_pem = out
    as_csv.write((",".join(CSV_COLUMNS) + "\r\n").encode())
    changes = verified = 0
    for line in lines:
        changes += 1
        as_json.write(change_text(line))
        as_csv.write((",".join(_cell(getattr(line, name)) for name in CSV_COLUMNS) + "\r\n").encode())
        if line.certificate is not None:
            verified += 1
            as_pem.write(f"# {line.device_serial} {line.cert_sha256}\n{line.certificate}".encode())
    files = tuple(item.facts(name) for name, item in zip(FILES, out, strict=True))
    return ExportCounts(changes, verified, files)


def _cell(value: object) -> str:
    """Return a cell (RFC 4180); names, serials and hashes hold neither quotes nor commas, and if one did: quoted."""
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text
