"""Take in a vendor's manifest: every identity is checked before anything of it is on record, and then all of them are.

The checked identities wait in a spool. One transaction records the manifest, the CAs that are new, and the identities:
a power cut before it leaves nothing, after it everything. Keys and ids that are on record already refuse the whole
file, and the manifest itself is taken in once: the same file again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID

from birthmark.errors import BirthmarkError, Refused
from birthmark.model.events import CaCreated, Preloaded, PreloadTakenIn, utc_text
from birthmark.model.preloadevents import ManifestForm
from birthmark.pki.certread import open_parts
from birthmark.pki.keycheck import check_public_key
from birthmark.ports import Clock, Ledger, PackedChunk, PreloadRecords, Records, SiteRecords, Spool, Transaction
from birthmark.wire.preload import (
    CHUNK_OCTETS,
    MAX_CERTIFICATE,
    PreloadedIdentity,
    VendorItem,
    is_unique_id,
    pack_identity,
)
from birthmark.workflow.preload.vendorpaths import VendorPaths

__all__ = ["IntakeRecords", "Manifest", "PreloadIntake", "TakenIn"]

_VENDOR_CA = "vendor"
"""What stands for the profile of a CA that a vendor made."""
_MAX_IDENTITIES = 10_000_000


class IntakeRecords(Records, SiteRecords, PreloadRecords, Protocol):
    """Reading all of the tables."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as its reader gives it. ``sha256``: hex, known once ``items`` is read to its end."""

    form: ManifestForm
    items: Iterable[VendorItem]
    sha256: Callable[[], str]


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of a manifest. ``new``: False if it was on record already. ``cas``: those that came with it."""

    vendor: str
    manifest_sha256: str
    count: int
    new: bool
    cas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreloadIntake:
    """Takes in manifests of one vendor, whose ``roots`` (DER) are trusted for its chips alone."""

    ledger: Ledger
    records: IntakeRecords
    vendor: str
    roots: tuple[bytes, ...]
    clock: Clock
    by: str

    def run(self, manifest: Manifest, above: Iterable[bytes], spool: Spool, *, approved: str | None = None) -> TakenIn:
        """Record every identity of a manifest or none. ``above``: certificates of CAs that came beside it.

        ``approved``: SHA-256 of the manifest that was approved; ``Refused("preload.changed")`` for any other. Raises
        what the reader of the manifest raises; ``Tampered("chain.*")``; ``Refused``: ``preload.role``,
        ``preload.empty``, ``preload.issuer``, ``preload.ca``, ``preload.authorities``, ``preload.id.*``,
        ``preload.device_ca``, ``preload.quota``, ``key.weak.*``, ``key.reused``.
        """
        if self.records.authority() is not None:
            raise Refused(
                "preload.role",
                "a site takes no manifests of vendors",
                hint="Take it in at the authority: what is on record there is unique over all sites.",
            )
        paths = VendorPaths(self.vendor, self.roots, self.records.cas(), self.clock())
        paths.add(tuple(above))
        count = self._check(manifest, paths, spool)
        digest = manifest.sha256()
        if approved not in (None, digest):
            raise Refused(
                "preload.changed",
                "this is not the manifest that was approved",
                hint="Somebody changed the file meanwhile: get it again from the vendor.",
                approved=approved,
                found=digest,
            )
        known = self.records.preload_file(digest)
        if known is not None:
            return TakenIn(self.vendor, digest, known, new=False, cas=())
        self._record(manifest.form, digest, count, paths, spool)
        return TakenIn(self.vendor, digest, count, new=True, cas=tuple(paths.new))

    def _check(self, manifest: Manifest, paths: VendorPaths, spool: Spool) -> int:
        packed: dict[str, list[bytes]] = {}
        octets: dict[str, int] = {}
        count = 0
        for item in manifest.items:
            ca, identity = _identity(item, paths)
            record = pack_identity(identity)
            if octets.get(ca, 0) + len(record) > CHUNK_OCTETS:
                spool.put(PackedChunk(ca, len(packed[ca]), b"".join(packed.pop(ca))))
                octets[ca] = 0
            packed.setdefault(ca, []).append(record)
            octets[ca] = octets.get(ca, 0) + len(record)
            count += 1
            if count > _MAX_IDENTITIES:
                break
        for ca, records in packed.items():
            spool.put(PackedChunk(ca, len(records), b"".join(records)))
        if not 0 < count <= _MAX_IDENTITIES:
            raise Refused(
                "preload.empty",
                f"a manifest has 1 to {_MAX_IDENTITIES:,} identities",
                hint="Name the file that the vendor sent; split a larger one.",
            )
        return count

    def _record(self, form: ManifestForm, digest: str, count: int, paths: VendorPaths, spool: Spool) -> None:
        at = utc_text(self.clock())
        chunks = sum(1 for _ in spool)
        with self.ledger.transaction() as tx:
            self._record_cas(tx, at, paths)
            tx.append(
                PreloadTakenIn(
                    at=at,
                    vendor=self.vendor,
                    form=form,
                    manifest_sha256=digest,
                    count=count,
                    chunks=chunks,
                    by=self.by,
                )
            )
            for number, chunk in enumerate(spool):
                event = Preloaded(
                    at=at,
                    manifest_sha256=digest,
                    vendor=self.vendor,
                    ca=chunk.ca,
                    chunk=number,
                    count=chunk.count,
                )
                tx.append(event, chunk.data)

    def _record_cas(self, tx: Transaction, at: str, paths: VendorPaths) -> None:
        for ca in paths.new.values():
            event = CaCreated(
                at=at,
                ca=ca.ca,
                kind="external",
                key_scheme="none",
                profile=_VENDOR_CA,
                cert_sha256=sha256(ca.certificate).hexdigest(),
                transcript_sha256="",
                by=self.by,
                issuer=ca.issuer,
            )
            tx.append(event, ca.certificate)


def _identity(item: VendorItem, paths: VendorPaths) -> tuple[str, PreloadedIdentity]:
    """Return the CA and the identity of one chip, checked."""
    if len(item.certificate) > MAX_CERTIFICATE:
        raise _refused("preload.certificate", item, "has a certificate that is too long")
    ca, certificate = paths.issuer_of(item)
    if _is_ca(certificate):
        raise _refused("preload.device_ca", item, "has a certificate of a CA")
    spki = open_parts(item.certificate).spki
    try:
        check_public_key(spki)
    except BirthmarkError as fault:
        fault.facts["where"] = item.where
        raise
    digest = sha256(spki).digest()
    unique_id = item.unique_id if item.unique_id is not None else next(_names(certificate), digest.hex())
    if not is_unique_id(unique_id):
        raise _refused("preload.id.malformed", item, f"has the id {unique_id[:80]!a}")
    return ca, PreloadedIdentity(digest, unique_id, item.certificate)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _names(certificate: x509.Certificate) -> Iterator[str]:
    """Yield what can name a chip in its subject: serialNumber, then CN."""
    for oid in (NameOID.SERIAL_NUMBER, NameOID.COMMON_NAME):
        for attribute in certificate.subject.get_attributes_for_oid(oid):
            text = str(attribute.value)
            if is_unique_id(text):
                yield text


def _refused(code: str, item: VendorItem, what: str) -> Refused:
    return Refused(
        code,
        f"{item.where} {what}",
        hint="Nothing of this file was taken in. Ask the vendor for a correct manifest.",
        where=item.where,
    )
