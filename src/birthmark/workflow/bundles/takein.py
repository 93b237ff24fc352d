"""Turn a chunk of a bundle into what the site's ledger and vault keep of it.

A chunk that is whole is one ``requested`` entry and its ``received`` entries, its slots as they are and its content key
sealed anew, for the site's vault. Of a chunk that lost devices before it was sealed every device is taken in by itself:
its key is sealed anew at position 0.

Every certificate's key is bound to its device by the SPKI hash in the record, and no key opens for another one. That
certificates and keys are good is guarded by samples, as when they were made: one identity of every transaction is
verified with its CA and its key opened and compared. All of them stand under the authority's signature of the manifest,
each key is compared again when it is drawn, and each signature is verified by ``audit verify``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from birthmark.errors import Refused, Tampered
from birthmark.model.events import Received, Requested, encode_entry
from birthmark.model.secret import Secret
from birthmark.pki.certread import CertificateParts, SpkiReader, open_parts
from birthmark.pki.sigcheck import SIGNATURES, verify_signature
from birthmark.ports import Entropy, SealedChunk, Transaction
from birthmark.wire.bundle import BundleChunk, BundleHeader, content_key_info
from birthmark.wire.hpke import SUITES, OpeningKeys
from birthmark.wire.vault import VaultRecipient, keep_content_key, keep_slot, open_slot_with
from birthmark.workflow.line.draw import require_pair

__all__ = ["ChunkTaker"]

_NO_REQUEST = bytes(32)


class ChunkTaker:
    """Prepares the chunks of one bundle. ``at``: the moment of all entries."""

    def __init__(
        self,
        *,
        header: BundleHeader,
        header_payload: bytes,
        key_algorithm: str,
        ca_certificate: bytes,
        keys: OpeningKeys,
        recipient: VaultRecipient,
        entropy: Entropy,
        at: str,
    ) -> None:
        assert header.suite is not None, "only a bundle with keys is taken in"  # noqa: S101
        self._header = header
        self._payload = header_payload
        self._suite = SUITES[header.suite]
        self._key = keys.key_for(header.suite)
        self._algorithm = key_algorithm
        self._ca = open_parts(ca_certificate)
        self._reader = SpkiReader()
        self._recipient = recipient
        self._entropy = entropy
        self._at = at
        self._source = f"bundle:{header.bundle}"

    def prepare(self, chunk: BundleChunk, *, sample: bool) -> _PreparedChunk | _PreparedDevices:
        """Return what is to be appended; ``sample``: verify the first identity wholly.

        ``Tampered``: ``vault.content_key``, ``vault.slot``, ``bundle.identity``, ``pool.inconsistent``.
        """
        serials = chunk.device_serials.split(b"\n")
        info = content_key_info(self._payload, chunk.chunk)
        content_key = self._suite.open(self._key, chunk.encapsulated, info)
        hashes = self._key_hashes(chunk)
        if sample:
            self._check_first(chunk, serials, content_key, hashes[0])
        request = Requested(
            at=self._at, order=self._header.order, count=chunk.count, source=self._source, chunk=chunk.chunk
        )
        if len(chunk.places) == chunk.count:
            kept = keep_content_key(self._recipient, content_key)
            sealed = SealedChunk(kept, self._header.slot_octets, chunk.slots)
            return _PreparedChunk(request, serials, chunk.certificates, hashes, sealed)
        devices = []
        for place, certificate, spki_hash in zip(chunk.places, chunk.certificates, hashes, strict=True):
            opened = open_slot_with(content_key, self._slot(chunk, place), place, spki_hash)
            device_serial = serials[place].decode("ascii")
            require_pair(device_serial, certificate, opened, spki_hash)
            kept, slot = keep_slot(self._recipient, self._entropy, self._algorithm, spki_hash, opened)
            devices.append((device_serial, certificate, spki_hash, SealedChunk(kept, len(slot), slot)))
        return _PreparedDevices(request, devices)

    def _key_hashes(self, chunk: BundleChunk) -> list[bytes]:
        spki = self._reader.spki
        try:
            return [sha256(spki(certificate)).digest() for certificate in chunk.certificates]
        except Refused:
            raise _bad_identity(chunk, "a certificate cannot be read") from None

    def _check_first(self, chunk: BundleChunk, serials: Sequence[bytes], content_key: Secret, spki_hash: bytes) -> None:
        place, der = chunk.places[0], chunk.certificates[0]
        device_serial = serials[place].decode("ascii")
        if not _is_issued_by(open_parts(der), self._ca):
            raise _bad_identity(chunk, f"the certificate of {device_serial} is not of its CA")
        opened = open_slot_with(content_key, self._slot(chunk, place), place, spki_hash)
        require_pair(device_serial, der, opened, spki_hash)

    def _slot(self, chunk: BundleChunk, place: int) -> bytes:
        size = self._header.slot_octets
        return chunk.slots[place * size : (place + 1) * size]


@dataclass(frozen=True, slots=True)
class _PreparedChunk:
    """A whole chunk."""

    request: Requested
    serials: Sequence[bytes]
    certificates: Sequence[bytes]
    hashes: Sequence[bytes]
    sealed: SealedChunk

    def append(self, tx: Transaction) -> None:
        """Append the intent, all certificates and the keys."""
        intent = tx.append(self.request, _NO_REQUEST.join(self.hashes) + _NO_REQUEST)
        # As ``encode_entry`` writes it; serials hold nothing that JSON escapes, and the first entry shows it.
        head, tail = b'{"at":"%s","device":"' % self.request.at.encode(), b'","intent":%d,"type":"received"}\n' % intent
        leaf, fixed = b"\0" + head, len(head) + len(tail)
        parts: list[bytes] = []
        leaf_hashes: list[bytes] = []
        for device_serial, certificate in zip(self.serials, self.certificates, strict=True):
            octets = fixed + len(device_serial) + len(certificate)
            parts += (octets.to_bytes(2, "big"), head, device_serial, tail, certificate)
            leaf_hashes.append(sha256(b"".join((leaf, device_serial, tail, certificate))).digest())
        first = Received(at=self.request.at, device=self.serials[0].decode("ascii"), intent=intent)
        assert b"".join(parts[1:5]) == encode_entry(first, self.certificates[0]), "one spelling"  # noqa: S101
        entries = b"".join(parts)
        tx.append_issued(intent, count=self.request.count, entries=entries, leaf_hashes=b"".join(leaf_hashes))
        tx.vault.put(intent, self.sealed)


@dataclass(frozen=True, slots=True)
class _PreparedDevices:
    """The devices that are left of a chunk: (device serial, certificate, SPKI hash, key)."""

    chunk: Requested
    devices: Sequence[tuple[str, bytes, bytes, SealedChunk]]

    def append(self, tx: Transaction) -> None:
        """Append intent, certificate and key of each device."""
        at, order, source = self.chunk.at, self.chunk.order, self.chunk.source
        for device_serial, certificate, spki_hash, sealed in self.devices:
            request = Requested(at=at, order=order, count=1, source=source, device=device_serial)
            intent = tx.append(request, spki_hash + _NO_REQUEST)
            tx.append(Received(at=at, device=device_serial, intent=intent), certificate)
            tx.vault.put(intent, sealed)


def _is_issued_by(certificate: CertificateParts, ca: CertificateParts) -> bool:
    kind = SIGNATURES.get(certificate.algorithm)
    named = certificate.issuer.whole == ca.subject.whole
    return named and kind is not None and verify_signature(kind, ca.spki, certificate.signature, certificate.tbs)


def _bad_identity(chunk: BundleChunk, reason: str) -> Tampered:
    return Tampered(
        "bundle.identity",
        f"an identity of chunk {chunk.chunk} cannot be used: {reason}",
        hint="Stop, keep the bundle, and tell the authority.",
        chunk=chunk.chunk,
    )
