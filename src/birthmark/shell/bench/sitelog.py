"""The log of a made-up site whose stations did real work: real certificates, real proofs, real receipts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_private_key

from birthmark.adapters.targets.proof import sign_proof
from birthmark.model import events as e
from birthmark.shell.workspace.wiring import Workspace
from birthmark.tlog.checkpoint import Checkpoint, sign
from birthmark.tlog.merkle import Frontier, leaf_hashes
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.tlog.tiles import encode_entries
from birthmark.wire.receipt import Receipt, challenge_of, encode_signature, sign_receipt, station_key_name
from birthmark.wire.report import ReportHeader, write_report
from birthmark.wire.vault import VAULT_INFO, open_content_key

__all__ = ["ENTRIES_A_RECEIPT", "SiteLog"]

ENTRIES_A_RECEIPT = 5
"""received, drawn, installed, verified, key_erased"""
_RECORD, _STATION = 72, "line1"


class SiteLog:
    """A pool site: its bundle is opened, every device is drawn, installed, verified, and its key erased."""

    def __init__(self, hq: Workspace, name: str, order: str, prefix: str) -> None:
        self._hq = hq
        self._order = order
        self._bundle = sha256(name.encode()).hexdigest()[:32]
        self.origin = f"{hq.settings.origin}/site/{name}"
        self._log_key, self._station_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self._station_name = station_key_name(self.origin, _STATION)
        self._at = e.utc_text(hq.clock())
        self._entries: list[bytes] = []
        self._agree(name, prefix)

    def _agree(self, name: str, prefix: str) -> None:
        """Put the site, its order and its bundle on record at the authority."""
        hq, at = self._hq, self._at
        vkey = encode_vkey(self.origin, public_octets(self._log_key))
        station_vkey = encode_vkey(self._station_name, public_octets(self._station_key))
        order = hq.records.order(self._order)
        chunks = [c for number in range(order.chunks) for c in hq.records.chunks(self._order, "issued", number - 1, 1)]
        with hq.ledger.transaction() as tx:
            tx.append(
                e.SiteAdded(
                    at=at, site=name, origin=self.origin, vkey=vkey, site_prefix=prefix, mode="pool", by="bench"
                )
            )
            tx.append(e.StationAdded(at=at, station=f"{name}/{_STATION}", vkey=station_vkey, by="bench"))
            tx.append(e.OrderAssigned(at=at, order=self._order, site=name, mode="pool", by="bench"))
            tx.append(
                e.BundleSealed(
                    at=at,
                    bundle=self._bundle,
                    order=self._order,
                    site=name,
                    devices=order.quantity,
                    suite="mlkem768-x25519",
                    by="bench",
                )
            )
            for chunk in chunks:
                tx.append(
                    e.Consigned(at=at, bundle=self._bundle, order=self._order, chunk=chunk.chunk, count=chunk.count)
                )
        self._say(
            e.WorkspaceCreated(
                at=at, workspace=name, origin=self.origin, site_prefix=prefix, software="bench", by="bench", role="site"
            )
        )
        self._say(
            e.OrderCreated(
                at=at,
                order=order.order,
                product=order.product,
                profile=order.profile,
                key_algorithm=order.key_algorithm,
                key_origin="injected",
                ca=order.ca,
                quantity=order.quantity,
                chunks=order.chunks,
                by="bench",
            )
        )
        for chunk in chunks:
            ((_, entry),) = hq.ledger.entries(chunk.seq, 1)
            self._entries.append(entry)

    def work(self) -> int:
        """Do the work of the site's stations; return how many receipts there are."""
        order, count = self._hq.records.order(self._order), 0
        for number in range(order.chunks):
            for chunk in self._hq.records.chunks(self._order, "consigned", number - 1, 1):
                count += self._chunk(chunk.chunk, chunk.seq)
        return count

    def _chunk(self, chunk: int, seq: int) -> int:
        ((_, entry),) = self._hq.ledger.entries(seq, 1)
        serials = e.decode_entry(entry)[1].decode().split("\n")
        intent = self._hq.records.intent(self._hq.records.device(serials[0]).intent)
        certificates = [
            e.decode_entry(issued)[1] for _, issued in self._hq.ledger.entries(intent.issued_seq, intent.count)
        ]
        keys = [intent.records[at + 8 : at + 40] for at in range(0, len(intent.records), _RECORD)]
        requested = self._say(
            e.Requested(at=self._at, order=self._order, count=len(keys), source=f"bundle:{self._bundle}", chunk=chunk),
            b"".join(key + bytes(32) for key in keys),
        )
        for serial, certificate in zip(serials, certificates, strict=True):
            self._say(e.Received(at=self._at, device=serial, intent=requested), certificate)
        with self._hq.ledger.transaction() as tx:
            sealed = [tx.vault.read(intent.intent, place) for place in range(intent.count)]
        slots = [slot for slot in sealed if slot is not None]
        opened = AESGCM(open_content_key(self._hq.vault_key, slots[0][0], VAULT_INFO).reveal())
        for place, (serial, certificate, key) in enumerate(zip(serials, certificates, keys, strict=True)):
            padded = opened.decrypt(place.to_bytes(12, "big"), slots[place][1], key)
            private: Any = load_der_private_key(padded, None)
            self._device(serial, certificate, key, private, requested)
        return len(serials)

    def _device(self, serial: str, certificate: bytes, key: bytes, private: Any, intent: int) -> None:
        attempt, nonce = os.urandom(16).hex(), os.urandom(32).hex()
        cert_sha256 = sha256(certificate).hexdigest()
        names: dict[str, Any] = {
            "origin": self.origin,
            "station": _STATION,
            "attempt": attempt,
            "device_serial": serial,
        }
        challenge = challenge_of(**names, cert_sha256=cert_sha256, nonce=nonce)
        receipt = Receipt(
            **names,
            target=f"files:{serial}",
            cert_sha256=cert_sha256,
            spki_sha256=key.hex(),
            key_origin="injected",
            evidence="signature",
            nonce=nonce,
            challenge=challenge.hex(),
            signature=encode_signature(sign_proof(private, challenge)),
            key_digest=None,
            started_at=self._at,
            finished_at=self._at,
            steps=(),
            software="bench",
            handshake=None,
        )
        note = sign_receipt(receipt, self._station_key, self._station_name)
        held = {"at": self._at, "device": serial, "station": _STATION, "attempt": attempt}
        self._say(e.Drawn(**held))
        self._say(e.Installed(**held, target=f"files:{serial}", cert_sha256=cert_sha256))
        self._say(e.Verified(**held, evidence="signature", receipt_sha256=sha256(note).hexdigest()), note)
        self._say(e.KeyErased(at=self._at, device=serial, intent=intent, reason="verified"))

    def _say(self, event: e.Event, attachment: bytes = b"") -> int:
        self._entries.append(e.encode_entry(event, attachment))
        return len(self._entries) - 1

    def write(self, path: Path) -> None:
        """Write the report of the whole log."""
        root = Frontier().extend(leaf_hashes(self._entries)).root()
        head = Checkpoint(self.origin, len(self._entries), root)
        header = ReportHeader(origin=self.origin, first=0, size=head.size, edge=())
        with path.open("wb") as file:
            write_report(file.write, header, sign(head, self._log_key).encode(), self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        for at in range(0, len(self._entries), 1024):
            yield encode_entries(self._entries[at : at + 1024])
