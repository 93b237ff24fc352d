"""Somebody who holds all keys of a site and writes any log he likes, without the program."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from birthmark.model import events as e
from birthmark.tlog.checkpoint import Checkpoint, sign
from birthmark.tlog.merkle import Frontier, leaf_hashes
from birthmark.tlog.tiles import encode_entries
from birthmark.wire.receipt import Receipt, sign_receipt, station_key_name
from birthmark.wire.report import ReportHeader, write_report
from support.sitepair import Site

__all__ = ["Forger"]

_Change = Callable[[Any, bytes], tuple[Any, bytes] | None]


class Forger:
    """``entries`` are those of the site's ledger; change them at will, then ``write`` a report signed by the site."""

    def __init__(self, site: Site) -> None:
        with site.open() as own:
            self.origin = own.settings.origin
            self.log_key: Any = own.private_key(own.settings.log.key)
            self.station_key: Any = own.private_key(own.settings.stations["line1"].key)
            self.entries = [entry for _, entry in own.ledger.entries(0, own.ledger.head().size)]

    def write(self, path: Path, *, first: int = 0, size: int | None = None) -> Path:
        entries = self.entries[:size]
        hashes = leaf_hashes(entries)
        root = Frontier().extend(hashes).root()
        note = sign(Checkpoint(self.origin, len(entries), root), self.log_key).encode()
        edge = Frontier().extend(hashes[:first])
        header = ReportHeader(
            origin=self.origin, first=first, size=len(entries), edge=tuple(item.hex() for item in edge.hashes)
        )
        with path.open("wb") as file:
            write_report(file.write, header, note, [encode_entries(entries[first:])])
        return path

    def find(self, kind: type, device: str | None = None) -> int:
        """Return the number of the last entry of a kind."""
        for number in range(len(self.entries) - 1, -1, -1):
            event, _ = e.decode_entry(self.entries[number])
            if isinstance(event, kind) and device in (None, getattr(event, "device", None)):
                return number
        raise LookupError(kind.__name__)

    def event(self, number: int) -> tuple[Any, bytes]:
        return e.decode_entry(self.entries[number])

    def replace(self, number: int, attachment: bytes | None = None, **changes: Any) -> None:
        event, attached = self.event(number)
        changed = msgspec.structs.replace(event, **changes)
        self.entries[number] = e.encode_entry(changed, attached if attachment is None else attachment)

    def append(self, event: Any, attachment: bytes = b"") -> int:
        self.entries.append(e.encode_entry(event, attachment))
        return len(self.entries) - 1

    def change_receipt(self, device: str, *, key: Any = None, **changes: Any) -> None:
        """Sign another receipt for a device with the station's key, or with ``key``."""
        number = self.find(e.Verified, device)
        _, note = self.event(number)
        told = msgspec.json.decode(note.partition(b"\n")[0])
        receipt = msgspec.convert({**told, **changes}, Receipt)
        signed = sign_receipt(receipt, key or self.station_key, station_key_name(receipt.origin, receipt.station))
        self.replace(number, signed, receipt_sha256=sha256(signed).hexdigest())
