"""Rows that no entry made: looked for only when a table has more rows than the log makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from birthmark.adapters.audit.entries import Document, parse_head
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import Index
from birthmark.adapters.audit.reader import LedgerReader

__all__ = ["name_extra_rows"]


def name_extra_rows(reader: LedgerReader, index: Index, table: str, findings: Findings) -> None:
    """Name every row of ``table`` that no entry made."""
    if table == "device":
        _devices(reader, index, findings)
        return
    if table == "settled":
        _settled(reader, findings)
        return
    code, columns, is_of = _BY_ENTRY[table]
    for row in reader.each(f'SELECT {columns} FROM "{table}"'):  # noqa: S608 - the table below
        key, seq, device = row
        document = _document(reader, seq)
        if document is None or not is_of(document, key):
            shown = key.hex() if isinstance(key, bytes) else ascii(key)[:80]
            what = f"row {shown} of table {table} (device {ascii(device)[:80]}) has no entry in the log"
            findings.add(code, what, f"table {table}, {shown}", device if isinstance(device, str) else None)


def _document(reader: LedgerReader, seq: object) -> Document | None:
    entry = reader.entry(seq) if isinstance(seq, int) and seq >= 0 else None
    return None if entry is None else parse_head(entry.partition(b"\n")[0])


def _is_reservation(document: Document, _key: Any) -> bool:
    return document.get("type") in ("reserved", "requested")


def _is_attempt(document: Document, key: Any) -> bool:
    return document.get("type") in ("reserved", "requested", "drawn") and document.get("attempt") == key


def _is_revocation(document: Document, key: Any) -> bool:
    return isinstance(key, bytes) and document.get("type") == "revoked" and document.get("cert_serial") == key.hex()


def _is_settlement(document: Document, _key: Any) -> bool:
    return document.get("type") in ("site_settled", "preloaded")


def _is_preload(document: Document, _key: Any) -> bool:
    return document.get("type") == "preloaded"


_BY_ENTRY: dict[str, tuple[str, str, Callable[[Document, Any], bool]]] = {
    "certificate": ("audit.fold.certificate", "intent, intent, device_serial", _is_reservation),
    "attempt": ("audit.fold.attempt", "attempt, seq, device_serial", _is_attempt),
    "revoked": ("audit.fold.revoked", "cert_serial, seq, device_serial", _is_revocation),
    "preload": ("audit.fold.preload", "spki_sha256, seq, device_serial", _is_preload),
    "site_key": ("audit.fold.site_key", "seq, seq, NULL", _is_settlement),
}


def _devices(reader: LedgerReader, index: Index, findings: Findings) -> None:
    chunks = {(chunk.order, chunk.chunk): chunk.seq for chunk in index.chunks}
    known: tuple[object, set[str]] = (None, set())
    for device, order, chunk in reader.each('SELECT device_serial, "order", chunk FROM device ORDER BY 2, 3'):
        if known[0] != (order, chunk):
            listed = (reader.entry(chunks.get((order, chunk), -1)) or b"").partition(b"\n")[2]
            known = ((order, chunk), set(listed.decode("ascii", "replace").split("\n")))
        if device not in known[1]:
            shown = ascii(device)[1:-1][:80] if isinstance(device, str) else ascii(device)[:80]
            what = f"device {shown} stands in the table, but no entry ordered it there"
            serial = device if isinstance(device, str) else None
            findings.add("audit.fold.device", what, f"table device, {shown}", serial)


def _settled(reader: LedgerReader, findings: Findings) -> None:
    """Name rows of devices that nobody ordered; those of other devices are named with their device."""
    query = "SELECT device_serial FROM settled WHERE device_serial NOT IN (SELECT device_serial FROM device)"
    for (device,) in reader.each(query):
        shown = ascii(device)[:80]
        what = f"device {shown} came home from a site, but nobody ordered it"
        findings.add("audit.fold.settled", what, f"table settled, {shown}", device if isinstance(device, str) else None)
