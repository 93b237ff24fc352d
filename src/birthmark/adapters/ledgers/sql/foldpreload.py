"""How identities that were made elsewhere change the tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from birthmark.adapters.ledgers.sql.foldsites import SiteFold
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.preloadevents import PRELOAD, origin_takes
from birthmark.wire.preload import PreloadedIdentity, unpack_identities

__all__ = ["PreloadFold"]

_ZEROS = bytes(32)
_HASH_OCTETS = 32
_ADD = "INSERT INTO preload VALUES (?, ?, ?, ?, ?, ?, NULL, NULL) ON CONFLICT DO NOTHING"
_BIND = """
UPDATE preload SET device_serial = ?1, bound = ?2
WHERE spki_sha256 = ?3 AND vendor = ?4 AND device_serial IS NULL"""
_USE = "UPDATE vendor_ca SET used = used + ?2 WHERE ca = ?1 AND vendor = ?3 AND used + ?2 <= quota"


class PreloadFold(SiteFold):
    """Applies the events of ``model/preloadevents.py``."""

    def preload_appliers(self) -> dict[type, Callable[[Any, bytes, int], None]]:
        """Return the applier of each event type."""
        return {
            e.PreloadTakenIn: self._preload_taken_in,
            e.Preloaded: self._preloaded,
            e.VendorDelegated: self._vendor_delegated,
        }

    def _preload_taken_in(self, event: e.PreloadTakenIn, attachment: bytes, seq: int) -> None:
        row = (event.manifest_sha256, event.vendor, event.form, event.count, event.chunks, seq)
        self._insert_new("preload_file", row, event.manifest_sha256)

    def _preloaded(self, event: e.Preloaded, attachment: bytes, seq: int) -> None:
        identities = unpack_identities(attachment)
        if identities is None or len(identities) != event.count or not self._is_of_file(event):
            raise Refused(
                "ledger.records",
                f"entry {seq} does not hold {event.count} identities of a manifest on record",
                hint="Run `birthmark preload ingest` again; it takes a manifest in whole.",
                vendor=event.vendor,
            )
        self._require_new_keys([identity.spki_sha256 for identity in identities], seq, None)
        rows = [
            (one.spki_sha256, hashlib.sha256(one.certificate).digest(), event.vendor, one.unique_id, event.ca, seq)
            for one in identities
        ]
        if self._database.executemany(_ADD, rows).rowcount != len(rows):
            raise self._repeated(event.vendor, identities, seq)
        self._count_use(event)
        packed = b"".join(one.spki_sha256 + _ZEROS for one in identities)
        self._database.execute("INSERT INTO site_key VALUES (?, ?)", (seq, packed))

    def _is_of_file(self, event: e.Preloaded) -> bool:
        query = "SELECT 1 FROM preload_file WHERE manifest_sha256 = ? AND vendor = ? AND chunks > ?"
        row = (event.manifest_sha256, event.vendor, event.chunk)
        return self._database.execute(query, row).fetchone() is not None

    def _repeated(self, vendor: str, identities: list[PreloadedIdentity], seq: int) -> Refused:
        query = "SELECT spki_sha256 FROM preload WHERE vendor = ? AND lower(unique_id) = ?"
        for one in identities:
            known = self._database.execute(query, (vendor, one.unique_id.lower())).fetchone()
            if known is not None and bytes(known[0]) != one.spki_sha256:
                break
        return Refused(
            "preload.id.repeated",
            f"two chips of {vendor} have the id {one.unique_id}",
            hint="Nothing of this file was taken in. Ask the vendor for a correct manifest: one id names one chip.",
            vendor=vendor,
            unique_id=one.unique_id,
            entry=seq,
        )

    def _count_use(self, event: e.Preloaded) -> None:
        if self._database.execute("SELECT 1 FROM vendor_ca WHERE ca = ?", (event.ca,)).fetchone() is None:
            return
        if self._database.execute(_USE, (event.ca, event.count, event.vendor)).rowcount != 1:
            raise Refused(
                "preload.quota",
                f"CA {event.ca} signed more identities than {event.vendor} may make with it",
                hint="Nothing of this file was taken in. Find out why: a quota is what was ordered, no more.",
                ca=event.ca,
                vendor=event.vendor,
            )

    def _vendor_delegated(self, event: e.VendorDelegated, attachment: bytes, seq: int) -> None:
        self._insert_new("vendor_ca", (event.ca, event.vendor, event.quota, 0, seq), event.ca)

    def _bind(self, event: e.Requested, attachment: bytes, seq: int) -> None:
        spki_sha256, vendor = attachment[:_HASH_OCTETS], event.source.removeprefix(PRELOAD)
        bound = event.device is not None and event.count == 1
        row = (event.device, seq, spki_sha256, vendor)
        if not bound or self._database.execute(_BIND, row).rowcount != 1:
            raise Refused(
                "preload.bound",
                f"this identity is none of {vendor} that waits for a device",
                hint="It is bound already, or was never taken in; `birthmark preload show` tells which.",
                vendor=vendor,
                spki_sha256=spki_sha256.hex(),
                device_serial=event.device,
            )

    def _require_origin(self, device_serial: str, key_origin: str, event: e.Reserved | e.Requested) -> None:
        """Refuse an identity from elsewhere than the order of the device says."""
        if not origin_takes(key_origin, event.source if isinstance(event, e.Requested) else None):
            raise Refused(
                "ledger.key_origin",
                f"device {device_serial} gets no such identity: its order says {key_origin}",
                hint="`birthmark order show` tells the key origin; preloaded chips are bound, foreign ones adopted.",
                device_serial=device_serial,
                key_origin=key_origin,
            )
