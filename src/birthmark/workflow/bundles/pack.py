"""Seal an order for the site that makes it: what leaves is on record first, then the file is written.

Power cut while the file is written: the devices have left, and sealing again goes on with the bundle of the same id.
It keeps what the file has already and ends with the same octets, however often it was stopped. A file is worth nothing
to its site without the manifest, which is written last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from msgspec import structs

from birthmark.errors import Refused, Tampered
from birthmark.model.events import Issued, Received, decode_entry, encode_entry
from birthmark.model.records import ChunkRecord, OrderRecord
from birthmark.ports import Ledger, SealedChunk, Transaction
from birthmark.wire.bundle import (
    BUNDLE_MAGIC,
    CHUNK,
    HEADER,
    BundleChunk,
    BundleHeader,
    content_key_info,
    decode_chunk,
    encode_chunk,
    encode_header,
)
from birthmark.wire.frames import FrameWriter, read_whole_frames
from birthmark.wire.hpke import SUITES, KeySuite, SealingKeys, SuiteName, seal_anew
from birthmark.wire.manifest import Manifest
from birthmark.wire.vault import VaultKey, open_content_key
from birthmark.workflow.bundles.chunks import ANY_STATE, chunks_in, device_serials_of
from birthmark.workflow.bundles.consign import Packing, consign

__all__ = ["BundleFile", "seal_bundle"]

_BATCH = 16
"""Chunks whose keys are read from the vault in one transaction."""


class BundleFile(Protocol):
    """The file that is written: ours alone, perhaps begun before."""

    def read(self, octets: int) -> bytes:
        """Return the next octets that are there, fewer only at the end."""
        ...

    def cut(self, octets: int) -> None:
        """Keep the first ``octets`` of the file and write behind them from now on."""
        ...

    def write(self, data: bytes) -> object: ...

    def finish(self) -> None:
        """Return when everything that was written is durable."""
        ...


@dataclass(frozen=True, slots=True)
class _Keys:
    suite: KeySuite
    recipient: SealingKeys
    vault_key: VaultKey


@dataclass(slots=True)
class _Bundle:
    """One bundle under way. ``payload``: of its frame ``H``; ``keys`` only where keys travel."""

    header: BundleHeader
    payload: bytes
    order: OrderRecord
    keys: _Keys | None = None
    digest: bytes = b""
    devices: int = 0


@dataclass(frozen=True, slots=True)
class _Source:
    """A chunk as the record has it; ``sealed`` as the vault has it."""

    chunk: ChunkRecord
    device_serials: bytes
    places: list[int]
    intent: int
    issued_seq: int
    sealed: SealedChunk | None


def seal_bundle(
    packing: Packing,
    *,
    order: str,
    site: str,
    suite: SuiteName,
    recipient: SealingKeys,
    file: BundleFile,
    progress: Callable[[int], None],
) -> Manifest:
    """Write the bundle of ``order`` for ``site`` into ``file``; return its manifest, to be signed and written last.

    In mode ``pool`` only those devices come with it for which their chunk still speaks: whatever was drawn, reworked
    or scrapped stays here. ``progress`` is told how many devices were written. Raises what ``consign`` does, and
    ``Refused``: ``bundle.forgotten``, ``bundle.file_exists``.
    """
    recipient.key_for(suite)
    record, header = consign(packing, order=order, site=site, suite=suite)
    bundle = _Bundle(header, encode_header(header), record)
    if header.mode == "pool":
        bundle.keys = _Keys(SUITES[suite], recipient, packing.vault_key())
    _write(packing, bundle, file, progress)
    return _manifest(bundle)


def _write(packing: Packing, bundle: _Bundle, file: BundleFile, progress: Callable[[int], None]) -> None:
    kept = _kept_chunks(bundle, file)
    writer = FrameWriter(file.write, BUNDLE_MAGIC, kept=True)
    writer.keep(HEADER, bundle.payload)
    appending = False
    for source in _sources(packing, bundle):
        found = None if appending else next(kept, None)
        payload = _payload(packing, bundle, source, found)
        bundle.devices += len(source.places)
        if payload == found:
            writer.keep(CHUNK, payload)
        else:
            if not appending:
                file.cut(writer.octets)
                appending = True
            writer.frame(CHUNK, payload)
        progress(source.chunk.count)
    if not appending:
        file.cut(writer.octets)
    bundle.digest = writer.end()
    file.finish()


def _kept_chunks(bundle: _Bundle, file: BundleFile) -> Iterator[bytes]:
    """Yield the chunks that the file has; one that is not the beginning of this bundle is never written over."""
    begun: list[bytes] = []
    writer = FrameWriter(begun.append, BUNDLE_MAGIC)
    writer.frame(HEADER, bundle.payload)
    beginning = b"".join(begun)
    there = file.read(len(beginning))
    if not beginning.startswith(there):
        raise Refused(
            "bundle.file_exists",
            "the file exists and is not this bundle",
            hint="Name another file with -o; nothing is written over.",
            bundle=bundle.header.bundle,
        )
    if there != beginning:
        file.cut(0)
        file.write(beginning)
        return iter(())
    after = _Rest(BUNDLE_MAGIC + b"\n", file.read)
    return (payload for kind, payload in read_whole_frames(after, BUNDLE_MAGIC) if kind == CHUNK)


class _Rest:
    """Reads the magic line that was read already, then the rest of the file."""

    def __init__(self, line: bytes, read: Callable[[int], bytes]) -> None:
        self._line = line
        self._read = read

    def __call__(self, octets: int) -> bytes:
        line, self._line = self._line, b""
        return line or self._read(octets)


def _sources(packing: Packing, bundle: _Bundle) -> Iterator[_Source]:
    """Yield every chunk of the order with what the ledger and the vault have of it."""
    chunks = chunks_in(
        packing.records, bundle.order.order, ANY_STATE if bundle.keys is None else ("issued", "consigned")
    )
    while batch := list(islice(chunks, _BATCH)):
        plain = [_source(packing, bundle, chunk) for chunk in batch]
        if bundle.keys is None:
            yield from plain
            continue
        with packing.ledger.transaction() as tx:
            sealed = [_with_keys(tx, source) for source in plain]
        yield from sealed


def _source(packing: Packing, bundle: _Bundle, chunk: ChunkRecord) -> _Source:
    _, device_serials = device_serials_of(packing.ledger, chunk)
    if bundle.keys is None:
        return _Source(chunk, device_serials, list(range(chunk.count)), -1, -1, None)
    touched = set(packing.records.touched(chunk.order, chunk.chunk))
    places = [place for place in range(chunk.count) if place not in touched]
    if chunk.state != "consigned" or not places:
        return _Source(chunk, device_serials, [], -1, -1, None)
    serial = device_serials.split(b"\n")[places[0]].decode("ascii")
    device = packing.records.device(serial)
    if device is None or device.intent is None or device.issued_seq is None:
        raise _inconsistent(chunk, "it has no certificates")
    return _Source(chunk, device_serials, places, device.intent, device.issued_seq - places[0], None)


def _with_keys(tx: Transaction, source: _Source) -> _Source:
    if not source.places:
        return source
    sealed = tx.vault.chunk(source.intent)
    if sealed is None:
        raise _inconsistent(source.chunk, "it has no keys")
    return _Source(
        source.chunk, source.device_serials, source.places, source.intent, source.issued_seq, _leaving(sealed, source)
    )


def _leaving(sealed: SealedChunk, source: _Source) -> SealedChunk:
    """Return the chunk with the slots of those that are not present as zeros."""
    size = sealed.slot_size
    slots = [sealed.slots[at : at + size] for at in range(0, len(sealed.slots), size)]
    empty = bytes(size)
    if any(slots[place] == empty for place in source.places):
        raise Refused(
            "bundle.forgotten",
            f"keys of chunk {source.chunk.chunk} of order {source.chunk.order} are erased here",
            hint="The site has opened this bundle; `birthmark bundle forget` erased our copy of its keys.",
            order=source.chunk.order,
            chunk=source.chunk.chunk,
        )
    if len(source.places) == len(slots):
        return sealed
    present = set(source.places)
    kept = b"".join(slot if place in present else empty for place, slot in enumerate(slots))
    return SealedChunk(sealed.encapsulated, size, kept)


def _payload(packing: Packing, bundle: _Bundle, source: _Source, found: bytes | None) -> bytes:
    """Return the chunk's payload; with the content key as ``found`` has it, if that is all there is to differ."""
    chunk = source.chunk
    facts = (chunk.chunk, chunk.first, chunk.count, source.device_serials, source.places)
    keys, sealed = bundle.keys, source.sealed
    if keys is None or sealed is None:
        return encode_chunk(BundleChunk(*facts), sealed=keys is not None)
    certificates = _certificates(packing.ledger, source)
    known = None if found is None else _encapsulated_in(found, bundle.header)
    if known is None:
        content_key = open_content_key(keys.vault_key, sealed.encapsulated)
        info = content_key_info(bundle.payload, chunk.chunk)
        known = seal_anew(content_key, keys.suite, keys.recipient.key_for(keys.suite.name), info)
    return encode_chunk(BundleChunk(*facts, certificates, known, sealed.slots), sealed=True)


def _encapsulated_in(payload: bytes, header: BundleHeader) -> bytes | None:
    try:
        return decode_chunk(payload, header).encapsulated or None
    except Tampered:
        return None


def _certificates(ledger: Ledger, source: _Source) -> list[bytes]:
    """Return the certificates of the present devices; they stand one after another in the log."""
    serials = source.device_serials.split(b"\n")
    entries = [entry for _, entry in ledger.entries(source.issued_seq, source.chunk.count)]
    # The entries of a chunk differ in their device alone: the first one is decoded, it shows how the others begin.
    first, _ = decode_entry(entries[source.places[0]])
    if not isinstance(first, Issued | Received) or first.intent != source.intent:
        raise _inconsistent(source.chunk, "its certificates are not where they belong")
    head, tail = encode_entry(structs.replace(first, device="|")).split(b"|")
    found: list[bytes] = []
    for place in source.places:
        entry, beginning = entries[place], b"".join((head, serials[place], tail))
        if not entry.startswith(beginning):
            raise _inconsistent(source.chunk, f"the certificate of {serials[place].decode()} is not where it belongs")
        found.append(entry[len(beginning) :])
    return found


def _manifest(bundle: _Bundle) -> Manifest:
    header, order = bundle.header, bundle.order
    return Manifest(
        bundle=header.bundle,
        authority=header.authority,
        site=header.site,
        order=header.order,
        mode=header.mode,
        product=order.product,
        profile=order.profile,
        key_algorithm=order.key_algorithm,
        key_origin="injected" if order.key_origin == "injected" else "device",
        ca=order.ca,
        quantity=order.quantity,
        chunks=order.chunks,
        devices=bundle.devices,
        bundle_sha256=bundle.digest.hex(),
        created_at=header.created_at,
    )


def _inconsistent(chunk: ChunkRecord, reason: str) -> Tampered:
    return Tampered(
        "bundle.inconsistent",
        f"chunk {chunk.chunk} of order {chunk.order} cannot be sealed: {reason}",
        hint="Stop and run `birthmark audit verify`.",
        order=chunk.order,
        chunk=chunk.chunk,
    )
