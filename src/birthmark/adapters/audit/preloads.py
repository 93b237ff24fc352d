"""Identities that vendors made: every record of a manifest, and that each chip belongs to one device."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from birthmark.adapters.audit.certificates import load_certificate
from birthmark.adapters.audit.der import certificate_spans
from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.identitypart import IdentityPart
from birthmark.adapters.audit.index import Authority, Index
from birthmark.adapters.audit.issuers import Issuers, is_ca
from birthmark.adapters.audit.reader import LedgerReader
from birthmark.adapters.audit.spill import Spill, read_records, shard_of

__all__ = ["SOURCE", "Preloads", "check_bound", "check_manifests", "origin_fault"]

SOURCE, _ADOPTED = "preload:", "adopted"
_HASH = 32
_ZEROS = bytes(_HASH)
_ID = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?")
_ROW = "SELECT cert_sha256, vendor, unique_id, ca, seq FROM preload WHERE spki_sha256 = ?"
sha256 = hashlib.sha256


def _records(data: bytes) -> Iterator[tuple[bytes, str, bytes]] | None:
    """Return (SPKI SHA-256, id, certificate) of each record (docs/formats/preload.md); None if they are not whole."""
    found, at = [], 0
    while at < len(data):
        name_end = at + _HASH + 1 + (data[at + _HASH] if at + _HASH < len(data) else 0)
        end = name_end + 2 + int.from_bytes(data[name_end : name_end + 2], "big")
        name = data[at + _HASH + 1 : name_end]
        if name_end + 2 > len(data) or end > len(data) or _ID.fullmatch(name) is None:
            return None
        found.append((data[at : at + _HASH], name.decode("ascii"), data[name_end + 2 : end]))
        at = end
    return iter(found)


def origin_fault(key_origin: str, source: str | None) -> bool:
    """Say whether an identity comes from elsewhere than the order of its device says."""
    preloaded = source is not None and source.startswith(SOURCE)
    return preloaded != (key_origin == "preloaded") or (source == _ADOPTED) != (key_origin == "adopted")


class Preloads:
    """Checks the entries of one range."""

    def __init__(self, reader: LedgerReader, index: Index, spill: Spill, part: IdentityPart) -> None:
        self._reader, self._spill, self._part = reader, spill, part
        self._files = {item.manifest_sha256: item for item in index.preload_files}
        self._authorities: Mapping[str, Authority] = {item.ca: item for item in index.authorities}
        self._destroyed = index.destroyed
        self._issuers: dict[str, Issuers] = {}

    def _add(self, code: str, what: str, where: str) -> None:
        self._part.findings.add(code, what, where)

    def entry(self, seq: int, document: Document, data: bytes) -> bytes:
        """Check one ``preloaded`` entry; return its keys as table ``site_key`` has them."""
        where, vendor, ca = f"entry {seq}", document["vendor"], document["ca"]
        records = _records(data)
        identities = [] if records is None else list(records)
        file = self._files.get(document["manifest_sha256"])
        if file is None or file.seq > seq or file.vendor != vendor or document["chunk"] >= file.chunks:
            self._add("audit.preload.manifest", f"entry {seq} belongs to no manifest that was taken in before", where)
        if not identities or len(identities) != document["count"]:
            self._add("audit.entry.unlawful", f"entry {seq} does not hold {document['count']} identities", where)
        self._part.preload_counts[document["manifest_sha256"]] += len(identities)
        self._part.preload_chunks[document["manifest_sha256"]] += 1
        self._part.preload_used[ca] += len(identities)
        self._part.preloaded += len(identities)
        if not ca.startswith(f"vendor:{vendor}:"):
            self._add("audit.preload.issuer", f"entry {seq} is of {vendor}, its CA {ca} is none of it", where)
        for spki_sha256, unique_id, certificate in identities:
            self._identity(seq, document, spki_sha256, unique_id, certificate)
        packed = b"".join(spki_sha256 + _ZEROS for spki_sha256, _, _ in identities)
        self._part.site_keys += 1
        if self._reader.all("SELECT requests FROM site_key WHERE seq = ?", seq) != [(packed,)]:
            self._add("audit.fold.site_key", f"the keys of entry {seq} differ", f"table site_key, entry {seq}")
        return packed

    def _identity(self, seq: int, document: Document, spki_sha256: bytes, unique_id: str, certificate: bytes) -> None:
        where, vendor, chip = f"entry {seq}", document["vendor"], f"chip {unique_id} of {document['vendor']}"
        spans = certificate_spans(certificate)
        if spans is None or load_certificate(certificate) is None:
            self._add("audit.certificate.malformed", f"the certificate of {chip} cannot be read", where)
            return
        if sha256(spans.spki).digest() != spki_sha256:
            self._add("audit.certificate.key", f"the certificate of {chip} has another key than its record", where)
        if is_ca(spans):
            self._add("audit.certificate.ca", f"the certificate of {chip} says that it is a CA", where)
        fault = self._issuer(document["ca"]).signature_fault(spans, certificate, seq)
        self._part.signatures += fault is None
        if fault is not None:
            self._add(fault[0], f"the certificate of {chip} {fault[1]}", where)
        row = self._reader.all(_ROW, spki_sha256)
        expected = [(sha256(certificate).digest(), vendor, unique_id, document["ca"], seq)]
        if row != expected:
            what = f"the row of {chip} is missing or says something else"
            self._add("audit.fold.preload", what, f"table preload, {spki_sha256.hex()}")
        shard = spki_sha256[0] & (self._spill.shards - 1)
        self._spill.record("chip", shard, (spki_sha256, seq, vendor, None))
        name = f"{vendor}/{unique_id.lower()}"
        self._spill.record("chipname", shard_of(name, self._spill.shards), (name, seq))

    def _issuer(self, ca: str) -> Issuers:
        if ca not in self._issuers:
            known = self._authorities.get(ca)
            chosen = () if known is None or known.kind != "external" else (known,)
            self._issuers[ca] = Issuers(chosen, self._destroyed, nested=False)
        return self._issuers[ca]

    def bound(self, seq: int, device: str | None, source: str, records: bytes) -> None:
        """Note that a ``requested`` entry binds a chip."""
        shard = records[0] & (self._spill.shards - 1) if records else 0
        self._spill.record("chip", shard, (records[:_HASH], seq, source.removeprefix(SOURCE), device or ""))

    def received(self, seq: int, device: str, source: str, record: bytes, certificate: bytes) -> None:
        """Check the certificate of a device that was not made for it here: the vendor's, or any that was adopted."""
        where, spans = f"entry {seq}", certificate_spans(certificate)
        what = f"the certificate of device {device}"
        findings = self._part.findings
        self._part.received[source] += 1
        if spans is None or load_certificate(certificate) is None:
            findings.add("audit.certificate.malformed", f"{what} is not a version 3 certificate in DER", where, device)
            return
        if sha256(spans.spki).digest() != record[:_HASH] or sha256(certificate).digest() != record[_HASH:]:
            findings.add("audit.certificate.key", f"{what} is another than the one that was noted", where, device)
        if is_ca(spans) and (source != _ADOPTED or spans.issuer != spans.subject):
            findings.add("audit.certificate.ca", f"{what} says that it is a CA", where, device)
        if source == _ADOPTED:
            return
        known = self._reader.all("SELECT cert_sha256 FROM preload WHERE spki_sha256 = ?", record[:_HASH])
        if known != [(sha256(certificate).digest(),)]:
            findings.add("audit.preload.certificate", f"{what} is not the one of its chip", where, device)


def check_bound(reader: LedgerReader, scratch: Path, shard: int, findings: Findings) -> None:
    """Check one shard: every bound chip was preloaded before, and belongs to one device; ids are unique."""
    chips: dict[bytes, list[tuple[int, str, str | None]]] = {}
    for key, seq, vendor, device in read_records(scratch, "chip", shard):
        chips.setdefault(key, []).append((seq, vendor, device))
    for key, events in sorted(chips.items()):
        events.sort(key=lambda event: event[0])
        made = [(seq, vendor) for seq, vendor, device in events if device is None]
        binds = [(seq, device, vendor) for seq, vendor, device in events if device is not None]
        for seq, device, vendor in binds:
            if not made or made[0][0] > seq or made[0][1] != vendor:
                what = f"device {device} was bound to a chip that {vendor} did not preload before"
                findings.add("audit.preload.unknown", what, f"entry {seq}", device)
        if len(binds) > 1:
            devices = ", ".join(str(device) for _, device, _ in binds[:8])
            what = f"the chip with key {key.hex()} was bound {len(binds)} times, to {devices}"
            findings.add("audit.preload.clone", what, f"entry {binds[1][0]}", binds[1][1])
        row = reader.all("SELECT device_serial, bound FROM preload WHERE spki_sha256 = ?", key)
        expected = [(binds[0][1], binds[0][0])] if binds else [(None, None)]
        if made and row != expected:
            what = f"the chip with key {key.hex()} stands as bound {row!a}, the log says {expected!a}"
            findings.add("audit.fold.preload", what, f"table preload, {key.hex()}", expected[0][0])
    names: dict[str, int] = {}
    for name, seq in read_records(scratch, "chipname", shard):
        if name in names:
            what = f"two chips have the id {name.replace('/', ' ')}"
            findings.add("audit.preload.id", what, f"entry {max(seq, names[name])}")
        names.setdefault(name, seq)


def check_manifests(
    index: Index, counts: Counter[str], chunks: Counter[str], used: Counter[str], findings: Findings
) -> None:
    """Check that manifests came in whole and that no vendor signed more than its quota."""
    for file in index.preload_files:
        found = (counts[file.manifest_sha256], chunks[file.manifest_sha256])
        if found != (file.count, file.chunks):
            what = f"a manifest of {file.vendor} has {file.count} identities, {found[0]} are on record"
            findings.add("audit.preload.manifest", what, f"entry {file.seq}")
    for item in index.vendor_cas:
        if used[item.ca] > item.quota or not item.ca.startswith(f"vendor:{item.vendor}:"):
            what = f"{item.vendor} signed {used[item.ca]} identities with {item.ca}, its quota is {item.quota}"
            findings.add("audit.preload.quota", what, f"entry {item.seq}")
