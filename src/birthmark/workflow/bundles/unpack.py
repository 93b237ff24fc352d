"""Take in a bundle at the site it was sealed for: once, whole, and verified before anything counts.

The file is read twice. The first time everything is verified against the manifest that the authority signed, and the
order with its devices is put on record in the same transaction: a bundle that is cut off, changed or foreign leaves no
trace. The second time its identities are taken in, some chunks a transaction, each chunk verified again since the file
may have changed meanwhile. ``bundle_opened`` is the last entry.

Power cut in the first pass: nothing happened. In the second: some identities are in the pool and may be drawn; opening
again takes in the rest, none of them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from birthmark.errors import Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import BundleOpened, DevicesOrdered, OrderCreated, utc_text
from birthmark.ports import Clock, Entropy, Ledger, Transaction
from birthmark.wire.bundle import (
    BUNDLE_MAGIC,
    CHUNK,
    HEADER,
    BundleChunk,
    BundleHeader,
    decode_chunk,
    decode_header,
)
from birthmark.wire.frames import read_frames, read_whole_frames
from birthmark.wire.hpke import OpeningKeys
from birthmark.wire.manifest import Manifest, open_manifest
from birthmark.wire.vault import VaultRecipient, slot_octets
from birthmark.workflow.bundles.chunks import ANY_STATE, chunks_in, device_serials_of
from birthmark.workflow.bundles.consign import BundleRecords
from birthmark.workflow.bundles.takein import ChunkTaker

__all__ = ["BundleReader", "Opened", "Unpacking", "open_bundle"]

_BATCH = 8
"""Chunks that are taken in by one transaction."""


class BundleReader(Protocol):
    """The bundle's file."""

    def read(self, octets: int) -> bytes:
        """Return exactly so many octets, fewer only at the end."""
        ...

    def rewind(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Unpacking:
    """What opening needs of the site. ``keys`` open the bundle; ``recipient`` is the site's own vault."""

    ledger: Ledger
    records: BundleRecords
    site_prefix: str
    keys: Callable[[], OpeningKeys]
    recipient: Callable[[], VaultRecipient]
    clock: Clock
    entropy: Entropy
    by: str


@dataclass(frozen=True, slots=True)
class Opened:
    """What was opened. ``taken``: identities that this run took in. ``before``: it was open already."""

    manifest: Manifest
    taken: int
    before: bool


class _Tags:
    """Tells in the second pass that a chunk is what it was in the first.

    AES-GMAC under a key that nobody else has: several times faster than a hash. The nonce is the chunk's place, and a
    tag is never shown.
    """

    def __init__(self, key: bytes) -> None:
        self._encrypt = AESGCM(key).encrypt
        self._tags: list[bytes] = []

    def _tag(self, place: int, payload: bytes) -> bytes:
        return self._encrypt(place.to_bytes(12, "big"), b"", payload)

    def add(self, payload: bytes) -> None:
        self._tags.append(self._tag(len(self._tags), payload))

    def fits(self, place: int, payload: bytes) -> bool:
        return place < len(self._tags) and compare_digest(self._tag(place, payload), self._tags[place])


@dataclass(slots=True)
class _Work:
    manifest: Manifest
    note: bytes
    at: str
    tags: _Tags
    header: BundleHeader | None = None
    payload: bytes = b""
    read: int = 0
    devices: int = 0
    places: int = 0


def open_bundle(
    unpacking: Unpacking, manifest: bytes, file: BundleReader, *, progress: Callable[[int], None]
) -> Opened:
    """Open a bundle with its signed manifest; ``progress`` is told how many devices were read, in both passes.

    Raises ``Refused``: ``bundle.no_authority``, ``bundle.foreign``, ``bundle.order_exists``, ``bundle.ca``;
    ``Tampered``: ``document.*``, ``frames.*``, ``bundle.*``, ``vault.content_key``.
    """
    work = _Work(_verified(unpacking, manifest), manifest, utc_text(unpacking.clock()), _Tags(unpacking.entropy(32)))
    if unpacking.records.bundle(work.manifest.bundle) is not None:
        return Opened(work.manifest, 0, before=True)
    known = unpacking.records.order(work.manifest.order) is not None
    if known:
        _compare_order(unpacking, work.manifest)
        _check_whole(unpacking, work, file, _same_devices(unpacking, work.manifest), progress)
    else:
        with unpacking.ledger.transaction() as tx:
            tx.append(_order_created(work, unpacking.by))
            _check_whole(unpacking, work, file, _ordering(unpacking, tx, work), progress)
            if work.manifest.mode != "pool":
                tx.append(_opened(work, unpacking.by), work.note)
    if work.manifest.mode != "pool":
        if known:
            _close(unpacking, work)
        return Opened(work.manifest, 0, before=False)
    file.rewind()
    return Opened(work.manifest, _take_in(unpacking, work, file, progress), before=False)


def _verified(unpacking: Unpacking, data: bytes) -> Manifest:
    records = unpacking.records
    authority = records.authority()
    if authority is None:
        raise Refused(
            "bundle.no_authority",
            "this workspace works for no authority",
            hint="Open a bundle at the site it was sealed for, after `birthmark site accept`.",
        )
    manifest = open_manifest(data, authority.vkey)
    if manifest.authority != authority.authority or manifest.mode != authority.mode:
        raise _foreign(f"it is for a site in mode {manifest.mode} of {manifest.authority[:80]}", manifest)
    if records.ca(manifest.ca) is None:
        raise Refused(
            "bundle.ca",
            f"this site does not know the CA {manifest.ca}",
            hint="Have the authority write a new grant and accept it: `birthmark site accept`.",
            ca=manifest.ca,
        )
    return manifest


def _check_whole(
    unpacking: Unpacking,
    work: _Work,
    file: BundleReader,
    take: Callable[[BundleChunk], None],
    progress: Callable[[int], None],
) -> None:
    """Read the file to its end; ``take`` every chunk. Only what returns from here is what the authority signed."""
    manifest = work.manifest
    digest = sha256()
    for kind, payload in read_frames(file.read, BUNDLE_MAGIC, digest=digest):
        if kind == HEADER and work.header is None:
            work.header, work.payload = _header(unpacking, manifest, payload), payload
            continue
        if kind != CHUNK or work.header is None:
            raise _differs("a frame stands where none of its kind belongs", manifest)
        chunk = decode_chunk(payload, work.header)
        if chunk.chunk != work.read or chunk.first != work.devices:
            raise _differs(f"chunk {chunk.chunk} is not in its place", manifest)
        work.tags.add(payload)
        work.read += 1
        work.devices += chunk.count
        work.places += len(chunk.places)
        if work.devices > manifest.quantity:
            raise _differs(f"it names more than {manifest.quantity} devices", manifest)
        take(chunk)
        progress(chunk.count)
    told = (manifest.bundle_sha256, manifest.chunks, manifest.quantity, manifest.devices)
    if told != (digest.hexdigest(), work.read, work.devices, work.places):
        raise _differs("its octets are not those that were signed", manifest)


def _header(unpacking: Unpacking, manifest: Manifest, payload: bytes) -> BundleHeader:
    header = decode_header(payload)
    named = (header.bundle, header.authority, header.site, header.order, header.mode, header.created_at)
    if named != (
        manifest.bundle,
        manifest.authority,
        manifest.site,
        manifest.order,
        manifest.mode,
        manifest.created_at,
    ):
        raise _differs("its header names another bundle", manifest)
    if header.site_prefix != unpacking.site_prefix:
        raise _foreign(f"it is for the site {header.site} with the serial prefix {header.site_prefix[:8]}", manifest)
    if header.mode == "pool" and header.slot_octets != slot_octets(manifest.key_algorithm):
        raise _differs("its slots are not of the size of its keys", manifest)
    return header


def _ordering(unpacking: Unpacking, tx: Transaction, work: _Work) -> Callable[[BundleChunk], None]:
    """Return what puts the devices of a chunk on record.

    The first chunk with keys is opened for a try: what was sealed for another key leaves no trace either.
    """
    tried = work.manifest.mode != "pool"

    def take(chunk: BundleChunk) -> None:
        nonlocal tried
        if not tried and chunk.places:
            _taker(unpacking, work).prepare(chunk, sample=True)
            tried = True
        event = DevicesOrdered(
            at=work.at, order=work.manifest.order, chunk=chunk.chunk, first=chunk.first, count=chunk.count
        )
        tx.append(event, chunk.device_serials)

    return take


def _same_devices(unpacking: Unpacking, manifest: Manifest) -> Callable[[BundleChunk], None]:
    """Return what compares a chunk with the order that is on record since the bundle was opened half."""
    chunks = chunks_in(unpacking.records, manifest.order, ANY_STATE)

    def take(chunk: BundleChunk) -> None:
        known = next(chunks, None)
        if known is None or device_serials_of(unpacking.ledger, known)[1] != chunk.device_serials:
            raise _order_exists(manifest)

    return take


def _compare_order(unpacking: Unpacking, manifest: Manifest) -> None:
    order = unpacking.records.order(manifest.order)
    assert order is not None, "it was just looked up"  # noqa: S101
    said = (order.product, order.profile, order.key_algorithm, order.key_origin, order.ca)
    told = (manifest.product, manifest.profile, manifest.key_algorithm, manifest.key_origin, manifest.ca)
    opened = unpacking.records.bundles(manifest.order)
    if said != told or (order.quantity, order.chunks) != (manifest.quantity, manifest.chunks) or opened:
        raise _order_exists(manifest)


def _taker(unpacking: Unpacking, work: _Work) -> ChunkTaker:
    ca = unpacking.records.ca(work.manifest.ca)
    assert work.header is not None and ca is not None, "both were looked at before"  # noqa: S101, PT018
    return ChunkTaker(
        header=work.header,
        header_payload=work.payload,
        key_algorithm=work.manifest.key_algorithm,
        ca_certificate=ca.certificate,
        keys=unpacking.keys(),
        recipient=unpacking.recipient(),
        entropy=unpacking.entropy,
        at=work.at,
    )


def _take_in(unpacking: Unpacking, work: _Work, file: BundleReader, progress: Callable[[int], None]) -> int:
    taker = _taker(unpacking, work)
    taken = 0
    batch: list[BundleChunk] = []
    for chunk in _chunks_again(work, file):
        progress(chunk.count)
        if _is_new(unpacking, work.manifest, chunk):
            batch.append(chunk)
        if len(batch) == _BATCH:
            taken += _commit(unpacking, taker, batch)
            batch = []
    if batch:
        taken += _commit(unpacking, taker, batch)
    _close(unpacking, work)
    return taken


def _chunks_again(work: _Work, file: BundleReader) -> Iterator[BundleChunk]:
    assert work.header is not None, "the first pass read it"  # noqa: S101
    seen = 0
    for kind, payload in read_whole_frames(file.read, BUNDLE_MAGIC):
        if kind != CHUNK:
            continue
        if not work.tags.fits(seen, payload):
            raise _differs("it changed while it was read", work.manifest)
        seen += 1
        yield decode_chunk(payload, work.header, seen=True)
    if seen != work.read:
        raise _differs("it changed while it was read", work.manifest)


def _is_new(unpacking: Unpacking, manifest: Manifest, chunk: BundleChunk) -> bool:
    """Say whether a chunk is still to be taken in; a chunk is taken in whole, so its first identity tells."""
    if not chunk.places:
        return False
    serial = chunk.device_serials.split(b"\n")[chunk.places[0]].decode("ascii")
    device = unpacking.records.device(serial)
    if device is not None and device.state is DeviceState.ORDERED:
        return True
    intent = None if device is None or device.intent is None else unpacking.records.intent(device.intent)
    if intent is None or intent.source != f"bundle:{manifest.bundle}":
        raise _order_exists(manifest)
    return False


def _commit(unpacking: Unpacking, taker: ChunkTaker, batch: list[BundleChunk]) -> int:
    ready = [taker.prepare(chunk, sample=chunk is batch[0]) for chunk in batch]
    with unpacking.ledger.transaction() as tx:
        for prepared in ready:
            prepared.append(tx)
    return sum(len(chunk.places) for chunk in batch)


def _close(unpacking: Unpacking, work: _Work) -> None:
    with unpacking.ledger.transaction() as tx:
        tx.append(_opened(work, unpacking.by), work.note)


def _order_created(work: _Work, by: str) -> OrderCreated:
    manifest = work.manifest
    return OrderCreated(
        at=work.at,
        order=manifest.order,
        product=manifest.product,
        profile=manifest.profile,
        key_algorithm=manifest.key_algorithm,
        key_origin=manifest.key_origin,
        ca=manifest.ca,
        quantity=manifest.quantity,
        chunks=manifest.chunks,
        by=by,
    )


def _opened(work: _Work, by: str) -> BundleOpened:
    manifest = work.manifest
    return BundleOpened(
        at=work.at,
        bundle=manifest.bundle,
        order=manifest.order,
        devices=manifest.devices,
        manifest_sha256=sha256(work.note).hexdigest(),
        by=by,
    )


def _foreign(reason: str, manifest: Manifest) -> Refused:
    return Refused(
        "bundle.foreign",
        f"this bundle is not for this site: {reason}",
        hint="Take it to the site that it names, and get yours from the authority.",
        site=manifest.site,
        order=manifest.order,
    )


def _order_exists(manifest: Manifest) -> Refused:
    return Refused(
        "bundle.order_exists",
        f"order {manifest.order} is on record here, and it is not the one of this bundle",
        hint="Ask the authority which bundle of this order is the right one; an order has one.",
        order=manifest.order,
        bundle=manifest.bundle,
    )


def _differs(reason: str, manifest: Manifest) -> Tampered:
    return Tampered(
        "bundle.manifest",
        f"this file is not the bundle of the manifest: {reason}",
        hint="Copy bundle and manifest again from where they were made; nothing of it was taken in.",
        bundle=manifest.bundle,
    )
