"""The small tables and the chunk-wise ones: folded from the log again, compared row by row with the ledger."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import (
    Authority,
    BulkIntent,
    Chunk,
    Index,
    Order,
    PreloadFile,
    Station,
    TemplateText,
    VendorCa,
)
from birthmark.adapters.audit.logpass import SITE_TYPES
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.sitefold import SiteFold

__all__ = [
    "Totals",
    "build_index",
    "check_bulk",
    "check_handed_out",
    "check_key_runs",
    "check_tables",
    "count_orders",
    "settle_chunks",
]

Totals = dict[str, int]

_COUNTS_AS = {
    "ordered": "open",
    "reserved": "open",
    "issued": "in_progress",
    "pooled": "stock",
    "consigned": "consigned",
    "drawn": "in_progress",
    "installed": "in_progress",
    "verified": "verified",
    "failed": "failed",
    "scrapped": "scrapped",
}


def build_index(
    indexed: Iterable[tuple[int, Document, bytes]], intents: Iterable[tuple[int, Document]], findings: Findings
) -> tuple[Index, SiteFold, dict[int, str]]:
    """Return the index, the expected small tables, and the cert_sha256 of every ``ca_created`` by its entry.

    Of two entries that claim one name the first counts; the second is a finding.
    """
    index, hashes = Index(), {}
    fold = SiteFold(index, findings)
    fold.meta["format"] = "birthmark-ledger/1"
    for seq, document in intents:
        index.intents.append(_bulk_intent(seq, document))
    taken: set[tuple[str, object]] = set()
    for seq, document, attachment in indexed:
        kind = document["type"]
        name = _name(kind, document)
        if name is not None and ((kind, name) in taken or (kind == "workspace_created" and seq)):
            findings.add(
                "audit.entry.unlawful", f"entry {seq} creates {kind.split('_')[0]} {name} again", f"entry {seq}"
            )
            continue
        taken.add((kind, name))
        if kind == "workspace_created":
            index.origin, index.site_prefix = document["origin"], document["site_prefix"]
            index.role = document.get("role", "authority")
            fold.meta.update({key: document[key] for key in ("origin", "site_prefix", "software")})
        elif kind == "software_changed":
            fold.meta["software"] = document["software"]
        elif kind in SITE_TYPES:
            fold.apply(seq, document, attachment)
        elif kind == "abandoned":
            index.abandoned.append((document["intent"], seq))
        else:
            _take(kind, seq, document, attachment, index)
            if kind == "ca_created":
                hashes[seq] = document["cert_sha256"]
    return index, fold, hashes


def _bulk_intent(seq: int, document: Document) -> BulkIntent:
    prefix = bytes.fromhex(document.get("serial_prefix", ""))
    row = (seq, document["order"], document["chunk"], document["count"], prefix, document.get("template", ""))
    return BulkIntent(*row, source=document.get("source"))


def _name(kind: str, document: Document) -> object:
    if kind == "devices_ordered":
        return document["order"], document["chunk"]
    names = {"ca_created": "ca", "template_admitted": "template", "order_created": "order", "station_added": "station"}
    names |= {"workspace_created": "workspace", "preload_taken_in": "manifest_sha256", "vendor_delegated": "ca"}
    return document[names[kind]] if kind in names else None


def _take(kind: str, seq: int, document: Document, attachment: bytes, index: Index) -> None:
    if kind == "ca_created":
        issuer = document.get("issuer")
        site = document.get("site")
        index.authorities.append(Authority(document["ca"], document["kind"], issuer, attachment, seq, site))
    elif kind == "template_admitted":
        row = (document["template"], document["ca"], document["profile"], attachment, seq)
        index.templates.append(TemplateText(*row))
    elif kind == "order_created":
        fields = ("order", "product", "profile", "key_algorithm", "key_origin", "ca", "quantity", "chunks")
        index.orders.append(Order(**{field: document[field] for field in fields}, seq=seq))
    elif kind == "station_added":
        index.stations.append(Station(document["station"], document["vkey"], seq))
    elif kind == "preload_taken_in":
        said = {field: document[field] for field in ("manifest_sha256", "vendor", "form", "count", "chunks")}
        index.preload_files.append(PreloadFile(**said, seq=seq))
    elif kind == "vendor_delegated":
        index.vendor_cas.append(VendorCa(document["ca"], document["vendor"], document["quota"], seq))
    elif kind == "devices_ordered":
        index.chunks.append(Chunk(document["order"], document["chunk"], document["first"], document["count"], seq))


def settle_chunks(index: Index, bulk: dict[int, tuple[int, int]], findings: Findings) -> None:
    """Write into the index what became of every chunk and bulk intent. ``bulk``: intent to (first entry, positions)."""
    chunks = {(chunk.order, chunk.chunk): chunk for chunk in index.chunks}
    abandoned: dict[int, int] = {}
    for number, seq in index.abandoned:
        if number in abandoned or number >= seq:
            findings.add("audit.entry.unlawful", f"entry {seq} gives up {number}, which is not open", f"entry {seq}")
        abandoned.setdefault(number, seq)
    for intent in index.intents:
        where = f"entry {intent.intent}"
        chunk = chunks.get((intent.order, intent.chunk))
        intent.abandoned = abandoned.get(intent.intent)
        first, mask = bulk.get(intent.intent, (None, 0))
        if mask and mask.bit_count() != intent.count:
            what = (
                f"{mask.bit_count()} of {intent.count} certificates of {intent.order}, chunk {intent.chunk} were issued"
            )
            findings.add("audit.intent.incomplete", what, where)
        if first is not None and intent.abandoned is not None and first < intent.abandoned:
            what = f"entry {intent.abandoned} gives up {intent.intent}, whose certificates were issued"
            findings.add("audit.entry.unlawful", what, f"entry {intent.abandoned}")
        intent.issued = first
        if chunk is None:
            continue
        if chunk.state != "ordered":
            what = f"chunk {chunk.chunk} of {chunk.order} is reserved again while it is {chunk.state}"
            findings.add("audit.device.two_live" if chunk.state == "issued" else "audit.entry.unlawful", what, where)
        if first is not None:
            chunk.state, chunk.intent = "issued", intent.intent
        elif intent.abandoned is None:
            chunk.state, chunk.intent = "reserved", intent.intent
    _settle_consigned(index, chunks, findings)


def _settle_consigned(index: Index, chunks: dict[tuple[str, int], Chunk], findings: Findings) -> None:
    issued = {intent.intent: intent.issued for intent in index.intents}
    for item in index.consigned:
        chunk = chunks.get((item.order, item.chunk))
        first = issued.get(chunk.intent) if chunk is not None and chunk.intent is not None else None
        if chunk is None or chunk.state != "issued" or first is None or first > item.seq:
            what = f"entry {item.seq} hands out chunk {item.chunk} of {item.order}, which is not in stock"
            findings.add("audit.entry.unlawful", what, f"entry {item.seq}")
        else:
            chunk.state = "consigned"


def check_bulk(
    index: Index, rows: dict[int, tuple[str, int | None]], without_vault: Sequence[int], findings: Findings
) -> None:
    """Compare state and issued_seq of every bulk row of table ``certificate``, and that issued chunks have keys."""
    keyless = set(without_vault)
    for intent in index.intents:
        state = "issued" if intent.issued is not None else "reserved" if intent.abandoned is None else "abandoned"
        row = rows.get(intent.intent)
        if row is not None and row != (state, intent.issued):
            what = f"intent {intent.intent} stands as {row!a}, the log says {(state, intent.issued)!a}"
            findings.add("audit.fold.certificate", what, f"table certificate, intent {intent.intent}")
        if state == "issued" and intent.intent in keyless:
            what = f"the keys of {intent.order}, chunk {intent.chunk} are not in the vault"
            findings.add("audit.vault.missing", what, f"table vault, intent {intent.intent}")


def check_tables(reader: LedgerReader, index: Index, fold: SiteFold, used: Counter[str], findings: Findings) -> None:
    """Compare all tables that are small or chunk-wise, every column of them. ``used``: CA to preloaded identities."""
    rows: dict[str, list[tuple[Any, ...]]] = {
        **fold.rows(),
        "station": [(item.station, item.vkey, item.seq) for item in index.stations],
        "ca": [(a.ca, a.kind, a.issuer, a.certificate, a.seq, a.site) for a in index.authorities],
        "template": [(item.template, item.ca, item.profile, item.body, item.seq) for item in index.templates],
        "order": [
            (o.order, o.product, o.profile, o.key_algorithm, o.key_origin, o.ca, o.quantity, o.chunks, o.seq)
            for o in index.orders
        ],
        "preload_file": [(f.manifest_sha256, f.vendor, f.form, f.count, f.chunks, f.seq) for f in index.preload_files],
        "vendor_ca": [(v.ca, v.vendor, v.quota, used[v.ca], v.seq) for v in index.vendor_cas],
        "chunk": [(c.order, c.chunk, c.first, c.count, c.seq, c.state, c.intent) for c in index.chunks],
    }
    for table, (keys, columns) in _TABLES.items():
        names = columns.split()
        query = f'SELECT {", ".join(_quoted(names))} FROM "{table}"'  # noqa: S608 - the names are literals below
        expected = {row[:keys]: row for row in rows[table]}
        for row in reader.each(query):
            should = expected.pop(row[:keys], None)
            if row != should:
                _report(table, names, keys, row, should, findings)
        for key, should in expected.items():
            _report(table, names, keys, None, should, findings)
            del key


_TABLES = {
    "meta": (1, "name value"),
    "station": (1, "station vkey seq"),
    "ca": (1, "ca kind issuer certificate seq site"),
    "template": (1, "template ca profile body seq"),
    "order": (1, "order product profile key_algorithm key_origin ca quantity chunks seq"),
    "chunk": (2, "order chunk first count seq state intent"),
    "site": (1, "site origin vkey site_prefix mode stopped reported root settled seq"),
    "assignment": (1, "order site mode seq"),
    "access": (1, "spki_sha256 name role site withdrawn seq"),
    "bundle": (1, "bundle order site devices seq"),
    "finding": (1, "seq site code device_serial entry"),
    "approvers": (1, "seq threshold vkeys"),
    "approval": (1, "plan_sha256 action seq"),
    "preload_file": (1, "manifest_sha256 vendor form count chunks seq"),
    "vendor_ca": (1, "ca vendor quota used seq"),
}


def _quoted(names: Iterable[str]) -> Iterable[str]:
    return (f'"{name}"' for name in names)


def _report(
    table: str, names: list[str], keys: int, row: Any, should: tuple[Any, ...] | None, findings: Findings
) -> None:
    key = ", ".join(str(part)[:80] for part in (row if should is None else should)[:keys])
    where = f"table {table}, {ascii(key)[1:-1]}"
    if should is None:
        findings.add(_FOLD_CODES[table], f"row {key!a} of table {table} is not in the log", where)
    elif row is None:
        findings.add(_FOLD_CODES[table], f"row {key!a} of table {table} is missing", where)
    else:
        for name, is_, value in zip(names, row, should, strict=True):
            if is_ != value:
                what = f"column {name} of {table} {key!a} is {_short(is_)}, the log says {_short(value)}"
                findings.add(_FOLD_CODES[table], what, f"{where}, column {name}")


_FOLD_CODES = {
    "meta": "audit.fold.meta",
    "station": "audit.fold.station",
    "ca": "audit.fold.ca",
    "template": "audit.fold.template",
    "order": "audit.fold.order",
    "chunk": "audit.fold.chunk",
    "site": "audit.fold.site",
    "assignment": "audit.fold.assignment",
    "access": "audit.fold.access",
    "bundle": "audit.fold.bundle",
    "finding": "audit.fold.finding",
    "approvers": "audit.fold.approvers",
    "approval": "audit.fold.approval",
    "preload_file": "audit.fold.preload_file",
    "vendor_ca": "audit.fold.vendor_ca",
}


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} octets with SHA-256 {hashlib.sha256(value).hexdigest()[:16]}"
    return ascii(value)[:80]


def count_orders(index: Index, touched: Counter[tuple[str, int, str]], findings: Findings) -> dict[str, Totals]:
    """Return the totals of every order and check that they add up (I4)."""
    chunks = {(chunk.order, chunk.chunk): chunk for chunk in index.chunks}
    totals: dict[str, Totals] = {}
    for order in index.orders:
        own = sorted((chunk for chunk in index.chunks if chunk.order == order.order), key=lambda chunk: chunk.chunk)
        where, at = f"entry {order.seq}", own[0].first if own else 0
        for chunk in own:
            if chunk.first != at:
                findings.add(
                    "audit.conservation", f"order {order.order}: chunk {chunk.chunk} begins at {chunk.first}", where
                )
            at = chunk.first + chunk.count
        count = sum(chunk.count for chunk in own)
        if count != order.quantity or len(own) != order.chunks:
            what = f"order {order.order} is for {order.quantity} devices in {order.chunks} chunks"
            findings.add("audit.conservation", f"{what}, the log has {count} in {len(own)}", where)
        found = dict.fromkeys(("ordered", *_COUNTS_AS.values()), 0)
        found["ordered"] = order.quantity
        pooled = "pooled" if order.key_origin == "injected" else "issued"
        for chunk in own:
            found[_COUNTS_AS[pooled if chunk.state == "issued" else chunk.state]] += chunk.count
        totals[order.order] = found
    for (name, number, state), count in touched.items():
        chunk_found = chunks.get((name, number))
        if name in totals and chunk_found is not None:
            injected = any(order.order == name and order.key_origin == "injected" for order in index.orders)
            was = chunk_found.state if chunk_found.state != "issued" else "pooled" if injected else "issued"
            totals[name][_COUNTS_AS[was]] -= count
            totals[name][_COUNTS_AS[state]] += count
    for name, found in totals.items():
        if sum(found.values()) != 2 * found["ordered"] or min(found.values()) < 0:
            findings.add("audit.conservation", f"order {name} does not add up: {found!a}", f"order {name}")
    return totals


def check_handed_out(index: Index, taken: Counter[tuple[str, int]], closed: Counter[str], findings: Findings) -> None:
    """Check that chunks left with the devices they still had, and that leftovers were erased before an order closed.

    ``taken``: (order, chunk) to devices that were not the chunk's any more; ``closed``: order to pooled devices whose
    keys were erased.
    """
    chunks = {(chunk.order, chunk.chunk): chunk for chunk in index.chunks}
    for item in index.consigned:
        chunk = chunks.get((item.order, item.chunk))
        left = 0 if chunk is None else chunk.count - taken[item.order, item.chunk]
        if left != item.count:
            what = f"chunk {item.chunk} of {item.order} left with {item.count} devices, it had {left}"
            findings.add("audit.bundle.count", what, f"entry {item.seq}")
    said: Counter[str] = Counter()
    for order, count, seq in index.closed:
        said[order] += count
        if said[order] > closed[order]:
            what = f"{said[order]} leftovers of order {order} count as destroyed, {closed[order]} keys were erased"
            findings.add("audit.bundle.leftovers", what, f"entry {seq}")


def check_key_runs(reader: LedgerReader, directory: Path, findings: Findings) -> None:
    """Compare the key index files with the hashes recorded for them; they are a cache, so this warns."""
    for run, name, digest in reader.each("SELECT run, file, sha256 FROM key_run ORDER BY run"):
        where = f"table key_run, run {run}"
        try:
            with (directory / str(name)).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            findings.add("audit.key.run", f"key index {str(name)!a} cannot be read", where)
            continue
        if found != digest:
            findings.add("audit.key.run", f"key index {str(name)!a} is not what was written", where)
