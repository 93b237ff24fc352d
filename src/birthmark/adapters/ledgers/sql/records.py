"""Reading the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from birthmark.adapters.ledgers.sql.database import Database
from birthmark.model.device import DeviceState
from birthmark.model.records import (
    AttemptRecord,
    CaRecord,
    ChunkRecord,
    DeviceRecord,
    IntentRecord,
    OrderRecord,
    OrderTotals,
    PreloadRecord,
    RevocationRecord,
    TemplateRecord,
)
from birthmark.model.siterecords import (
    AccessRecord,
    AssignmentRecord,
    AuthorityRecord,
    BundleRecord,
    FindingRecord,
    SettledRecord,
    SiteRecord,
)

__all__ = ["DEVICES_QUERY", "DEVICE_QUERY", "SqlRecords"]

_ORDER = 'SELECT "order", product, profile, key_algorithm, key_origin, ca, quantity, chunks FROM "order"'
_INTENT = (
    'SELECT intent, "order", chunk, count, state, issued_seq, template, serial_prefix, records, source FROM certificate'
)
_SITE = "SELECT site, origin, vkey, site_prefix, mode, stopped, reported, root, settled, seq FROM site"
_ACCESS = "SELECT spki_sha256, name, role, site, withdrawn, seq FROM access"
_PRELOAD = "SELECT spki_sha256, cert_sha256, vendor, unique_id, ca, seq, device_serial, bound FROM preload"
_BUNDLE = 'SELECT bundle, "order", site, devices, seq FROM bundle'
# A device whose own state is NULL is where its chunk is: bulk work writes one row a chunk, not one a device.
DEVICES_QUERY = """
SELECT d.device_serial, d."order",
       coalesce(d.state, CASE WHEN c.state <> 'issued' THEN c.state
                              WHEN o.key_origin = 'injected' THEN 'pooled' ELSE 'issued' END),
       coalesce(d.intent, CASE WHEN d.state IS NULL THEN c.intent END),
       coalesce(d.position, CASE WHEN d.state IS NULL THEN d.place END), d.attempt, o.key_origin,
       d.state IS NULL AND c.state IN ('ordered', 'reserved')
FROM device d JOIN chunk c ON c."order" = d."order" AND c.chunk = d.chunk
              JOIN "order" o ON o."order" = d."order"
"""
DEVICE_QUERY = DEVICES_QUERY + "WHERE d.device_serial = ?"
_DEVICES = """
SELECT d.device_serial, d."order",
       coalesce(d.state, CASE WHEN c.state <> 'issued' THEN c.state
                              WHEN o.key_origin = 'injected' THEN 'pooled' ELSE 'issued' END),
       x.intent, coalesce(d.position, CASE WHEN d.state IS NULL THEN d.place END), x.issued_seq, d.attempt
FROM device d JOIN chunk c ON c."order" = d."order" AND c.chunk = d.chunk
              JOIN "order" o ON o."order" = d."order"
              LEFT JOIN certificate x ON x.intent = coalesce(d.intent, CASE WHEN d.state IS NULL THEN c.intent END)
WHERE d.device_serial IN"""
_TOUCHED = """
SELECT c.state, d.state, count(*) FROM device d JOIN chunk c ON c."order" = d."order" AND c.chunk = d.chunk
WHERE d."order" = ? AND d.state IS NOT NULL GROUP BY 1, 2"""

_COLUMN = {
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
"""In which total a device state counts."""


_TOTALS = ("open", "stock", "consigned", "in_progress", "verified", "failed", "scrapped")


class SqlRecords:
    """Implements ``ports.Records``."""

    def __init__(
        self,
        database: Database,
        lock: AbstractContextManager[object],
        naming: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._database = database
        self._lock = lock
        self._naming = naming

    def _all(self, query: str, *values: object) -> list[Any]:
        with self._lock, self._naming():
            return self._database.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> Any:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    def device(self, device_serial: str) -> DeviceRecord | None:
        return self.devices([device_serial]).get(device_serial)

    def devices(self, device_serials: Sequence[str]) -> dict[str, DeviceRecord]:
        rows = self._all(f"{_DEVICES} ({_marks(device_serials)})", *device_serials)
        return {row[0]: _device_record(*row) for row in rows}

    def order(self, order: str) -> OrderRecord | None:
        row = self._one(_ORDER + ' WHERE "order" = ?', order)
        return None if row is None else OrderRecord(*row)

    def orders(self) -> Sequence[OrderRecord]:
        return [OrderRecord(*row) for row in self._all(_ORDER + " ORDER BY seq")]

    def totals(self, order: str) -> OrderTotals:
        chunks = dict(
            self._all('SELECT state, CAST(sum(count) AS BIGINT) FROM chunk WHERE "order" = ? GROUP BY 1', order)
        )
        totals = dict.fromkeys(_TOTALS, 0)
        for chunk_state, state, count in self._all(_TOUCHED, order):
            chunks[chunk_state] -= count
            totals[_COLUMN[state]] += count
        origin = self._one('SELECT key_origin FROM "order" WHERE "order" = ?', order)
        issued = "pooled" if origin == ("injected",) else "issued"
        for chunk_state, count in chunks.items():
            totals[_COLUMN[issued if chunk_state == "issued" else chunk_state]] += count
        return OrderTotals(ordered=sum(totals.values()), **totals)

    def chunks(self, order: str, state: str, after: int, limit: int) -> Sequence[ChunkRecord]:
        rows = self._all(
            'SELECT c.chunk, c.first, c.count, c.seq, c.state FROM chunk c WHERE c."order" = ? AND c.state = ?'
            " AND c.chunk > ? ORDER BY c.chunk LIMIT ?",
            order, state, after, limit,
        )  # fmt: skip
        return [
            ChunkRecord(order=order, chunk=chunk, first=first, count=count, seq=seq, state=state_)
            for chunk, first, count, seq, state_ in rows
        ]

    def touched(self, order: str, chunk: int) -> Sequence[int]:
        rows = self._all(
            'SELECT place FROM device WHERE "order" = ? AND chunk = ? AND state IS NOT NULL ORDER BY place',
            order, chunk,
        )  # fmt: skip
        return [row[0] for row in rows]

    def intent(self, intent: int) -> IntentRecord | None:
        row = self._one(_INTENT + " WHERE intent = ?", intent)
        return None if row is None else IntentRecord(*row)

    def intents(self, state: str) -> Sequence[IntentRecord]:
        return [IntentRecord(*row) for row in self._all(_INTENT + " WHERE state = ? ORDER BY intent", state)]

    def attempt(self, attempt: str) -> AttemptRecord | None:
        return self.attempts([attempt]).get(attempt)

    def attempts(self, attempts: Sequence[str]) -> dict[str, AttemptRecord]:
        query = f"SELECT attempt, device_serial, kind, seq FROM attempt WHERE attempt IN ({_marks(attempts)})"  # noqa: S608
        return {row[0]: AttemptRecord(*row) for row in self._all(query, *attempts)}

    def ca(self, ca: str) -> CaRecord | None:
        row = self._one("SELECT ca, kind, issuer, certificate, seq, site FROM ca WHERE ca = ?", ca)
        return None if row is None else CaRecord(*row)

    def cas(self) -> Sequence[CaRecord]:
        return [CaRecord(*r) for r in self._all("SELECT ca, kind, issuer, certificate, seq, site FROM ca ORDER BY seq")]

    def template(self, template: str) -> TemplateRecord | None:
        row = self._one("SELECT template, ca, profile, body, seq FROM template WHERE template = ?", template)
        return None if row is None else TemplateRecord(*row)

    def templates(self, ca: str, profile: str) -> Sequence[TemplateRecord]:
        rows = self._all(
            "SELECT template, ca, profile, body, seq FROM template WHERE ca = ? AND profile = ? ORDER BY seq DESC",
            ca, profile,
        )  # fmt: skip
        return [TemplateRecord(*row) for row in rows]

    def stations(self) -> dict[str, str]:
        return dict(self._all("SELECT station, vkey FROM station"))

    def is_revoked(self, cert_serial: bytes) -> bool:
        return self._one("SELECT 1 FROM revoked WHERE cert_serial = ?", cert_serial) is not None

    def revocations(self, ca: str) -> Sequence[RevocationRecord]:
        rows = self._all(
            "SELECT r.cert_serial, r.device_serial, r.reason, r.seq FROM revoked r"
            " JOIN device d ON d.device_serial = r.device_serial"
            ' JOIN "order" o ON o."order" = d."order" WHERE o.ca = ? ORDER BY r.seq',
            ca,
        )
        return [RevocationRecord(*row) for row in rows]

    def site(self, site: str) -> SiteRecord | None:
        row = self._one(_SITE + " WHERE site = ?", site)
        return None if row is None else SiteRecord(*row)

    def sites(self) -> Sequence[SiteRecord]:
        return [SiteRecord(*row) for row in self._all(_SITE + " ORDER BY seq")]

    def assignment(self, order: str) -> AssignmentRecord | None:
        row = self._one('SELECT "order", site, mode FROM assignment WHERE "order" = ?', order)
        return None if row is None else AssignmentRecord(*row)

    def assignments(self, site: str) -> Sequence[AssignmentRecord]:
        rows = self._all('SELECT "order", site, mode FROM assignment WHERE site = ? ORDER BY seq', site)
        return [AssignmentRecord(*row) for row in rows]

    def access(self, spki_sha256: str) -> AccessRecord | None:
        row = self._one(_ACCESS + " WHERE spki_sha256 = ?", spki_sha256)
        return None if row is None else AccessRecord(*row)

    def accesses(self) -> Sequence[AccessRecord]:
        return [AccessRecord(*row) for row in self._all(_ACCESS + " ORDER BY seq")]

    def bundle(self, bundle: str) -> BundleRecord | None:
        row = self._one(_BUNDLE + " WHERE bundle = ?", bundle)
        return None if row is None else BundleRecord(*row)

    def bundles(self, order: str) -> Sequence[BundleRecord]:
        return [BundleRecord(*row) for row in self._all(_BUNDLE + ' WHERE "order" = ? ORDER BY seq', order)]

    def settled(self, device_serial: str) -> SettledRecord | None:
        row = self._one("SELECT device_serial, site, site_seq FROM settled WHERE device_serial = ?", device_serial)
        return None if row is None else SettledRecord(*row)

    def findings(self, site: str) -> Sequence[FindingRecord]:
        rows = self._all("SELECT seq, site, code, device_serial, entry FROM finding WHERE site = ? ORDER BY seq", site)
        return [FindingRecord(*row) for row in rows]

    def authority(self) -> AuthorityRecord | None:
        meta = dict(self._all("SELECT name, value FROM meta WHERE name IN ('authority', 'authority_vkey', 'mode')"))
        return AuthorityRecord(meta["authority"], meta["authority_vkey"], meta["mode"]) if len(meta) == 3 else None

    def approvers(self) -> tuple[int, tuple[str, ...]] | None:
        row = self._one("SELECT threshold, vkeys FROM approvers ORDER BY seq DESC LIMIT 1")
        return None if row is None else (row[0], tuple(row[1].split("\n")))

    def preloaded(self, spki_sha256: bytes) -> PreloadRecord | None:
        row = self._one(_PRELOAD + " WHERE spki_sha256 = ?", spki_sha256)
        return None if row is None else PreloadRecord(*row)

    def preloaded_of(self, device_serial: str) -> PreloadRecord | None:
        row = self._one(_PRELOAD + " WHERE device_serial = ? ORDER BY bound DESC LIMIT 1", device_serial)
        return None if row is None else PreloadRecord(*row)

    def preload_file(self, manifest_sha256: str) -> int | None:
        row = self._one("SELECT count FROM preload_file WHERE manifest_sha256 = ?", manifest_sha256)
        return None if row is None else int(row[0])

    def preload_counts(self) -> Sequence[tuple[str, int, int]]:
        return self._all("SELECT vendor, count(*), count(bound) FROM preload GROUP BY vendor ORDER BY vendor")

    def vendor_cas(self) -> Sequence[tuple[str, str, int, int]]:
        return self._all("SELECT ca, vendor, quota, used FROM vendor_ca ORDER BY seq")

    def is_approval_used(self, plan_sha256: str) -> bool:
        return self._one("SELECT 1 FROM approval WHERE plan_sha256 = ?", plan_sha256) is not None


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _device_record(
    device_serial: str,
    order: str,
    state: str,
    intent: int | None,
    position: int | None,
    issued_seq: int | None,
    attempt: str | None,
) -> DeviceRecord:
    """``issued_seq``: that of the first certificate of the intent."""
    return DeviceRecord(
        device_serial=device_serial,
        order=order,
        state=DeviceState(state),
        intent=intent,
        position=position,
        issued_seq=None if issued_seq is None or position is None else issued_seq + position,
        attempt=attempt,
    )
