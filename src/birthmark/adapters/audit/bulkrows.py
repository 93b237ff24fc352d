"""The rows of a bulk intent: table ``certificate`` column by column, and the sealed keys beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from birthmark.adapters.audit.entries import RECORD_OCTETS, REQUEST_OCTETS, Document
from birthmark.adapters.audit.identitypart import IdentityPart
from birthmark.adapters.audit.reader import LedgerReader

__all__ = ["INTENT_COLUMNS", "check_bulk_row", "check_bulk_vault", "intent_row", "record_octets"]

INTENT_COLUMNS = (
    "order", "chunk", "device_serial", "count", "template", "serial_prefix", "source", "records", "state", "issued_seq",
)  # fmt: skip
_ROW = (
    'SELECT "order", chunk, device_serial, count, template, serial_prefix, source, records, state, issued_seq'
    " FROM certificate WHERE intent = ?"
)


def record_octets(document: Document) -> int:
    """Return the length of a record of a ``reserved`` or ``requested`` event."""
    return RECORD_OCTETS if document["type"] == "reserved" else REQUEST_OCTETS


def intent_row(document: Document) -> tuple[object, ...]:
    """Return what the first seven of ``INTENT_COLUMNS`` must hold."""
    prefix = document.get("serial_prefix")
    return (
        document["order"], document.get("chunk"), document.get("device"), document["count"],
        document.get("template", ""), None if prefix is None else bytes.fromhex(prefix), document.get("source"),
    )  # fmt: skip


def check_bulk_row(
    reader: LedgerReader, seq: int, document: Document, records: bytes, serials: Sequence[str], part: IdentityPart
) -> None:
    """Compare the row of the bulk intent in entry ``seq``; its state is left to a later check."""
    where = f"table certificate, intent {seq}"
    rows = reader.all(_ROW, seq)
    if not rows:
        part.findings.add("audit.fold.certificate", f"the row of intent {seq} is missing", where)
        return
    *row, stored, state, issued = rows[0]
    part.bulk_rows[seq] = (state, issued)
    for column, is_, should in zip(INTENT_COLUMNS, row, intent_row(document), strict=False):
        if is_ != should:
            what = f"column {column} of intent {seq} is {is_!a}, the log says {should!a}"
            part.findings.add("audit.fold.certificate", what, where)
    if stored == records:
        return
    stored, octets = stored if isinstance(stored, bytes) else b"", record_octets(document)
    for position, device in enumerate(serials):
        at = octets * position
        if stored[at : at + octets] != records[at : at + octets]:
            what = f"the record of device {device} (position {position}) of intent {seq} differs from the log"
            part.findings.add("audit.fold.certificate", what, f"{where}, column records", device)


def check_bulk_vault(
    reader: LedgerReader, seq: int, serials: Sequence[str], part: IdentityPart, erased: Callable[[str, int], None]
) -> None:
    """Check that the keys of a chunk are there; ``erased`` gets device and position of every slot of zeros."""
    rows = reader.all("SELECT slot_size, slots FROM vault WHERE intent = ?", seq)
    if not rows:
        part.without_vault.append(seq)
        return
    size, slots = rows[0]
    if not isinstance(slots, bytes) or not isinstance(size, int) or size < 1 or len(slots) != size * len(serials):
        what = f"the keys of intent {seq} are not {len(serials)} slots"
        part.findings.add("audit.vault.missing", what, f"table vault, intent {seq}")
        return
    zero = bytes(size)
    if zero not in slots:
        return
    for position, device in enumerate(serials):
        if slots[size * position : size * position + size] == zero:
            erased(device, position)
