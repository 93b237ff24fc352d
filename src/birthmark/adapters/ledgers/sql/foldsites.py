"""How the events between an authority and its sites change the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from birthmark.adapters.ledgers.sql.database import Database
from birthmark.adapters.ledgers.sql.foldedtables import SETTLE_HINT, ClaimKeys, FoldedTables, octets_of
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.device import DeviceState

__all__ = ["SiteFold"]

_SETTLED_STATES = frozenset(str(state) for state in DeviceState if state is not DeviceState.CONSIGNED)
_SETTLE_DEVICE = """
UPDATE device SET
  position = CASE WHEN state IS NULL AND (SELECT c.intent FROM chunk c WHERE c."order" = device."order"
                  AND c.chunk = device.chunk) IS NOT NULL THEN place ELSE position END,
  intent = CASE WHEN state IS NULL THEN (SELECT c.intent FROM chunk c WHERE c."order" = device."order"
                AND c.chunk = device.chunk) ELSE intent END,
  state = ?2
WHERE device_serial = ?1 AND "order" = ?3 AND coalesce(state, '') <> 'scrapped'"""


class SiteFold(FoldedTables):
    """Applies the events of ``model/siteevents.py``."""

    def __init__(self, database: Database, claim_keys: ClaimKeys) -> None:
        super().__init__(database, claim_keys)
        self._signed_here: set[str] = set()
        """Orders that were found, in the open transaction, not to be signed at a site."""

    def site_appliers(self) -> dict[type, Callable[[Any, bytes, int], None]]:
        """Return the applier of each event type."""
        return {
            e.SiteAdded: self._site_added,
            e.SiteStopped: self._site_stopped,
            e.SiteResumed: self._site_resumed,
            e.AccessGranted: self._access_granted,
            e.AccessWithdrawn: self._access_withdrawn,
            e.OrderAssigned: self._order_assigned,
            e.BundleSealed: self._bundle_sealed,
            e.Consigned: self._consigned,
            e.SiteReported: self._site_reported,
            e.SiteSettled: self._site_settled,
            e.FindingRaised: self._finding_raised,
            e.GrantAccepted: self._grant_accepted,
            e.BundleOpened: self._bundle_opened,
            e.BundleClosed: self._nothing,
            e.ApproversSet: self._approvers_set,
            e.ApprovalUsed: self._approval_used,
            e.CaKeyDestroyed: self._nothing,
        }

    def _nothing(self, event: e.Event, attachment: bytes, seq: int) -> None:
        """Fold nothing: the entry itself is the record."""

    def _site_added(self, event: e.SiteAdded, attachment: bytes, seq: int) -> None:
        row = (event.site, event.origin, event.vkey, event.site_prefix, event.mode, None, 0, "", 0, seq)
        if self._database.execute(
            "SELECT 1 FROM meta WHERE name = 'site_prefix' AND value = ?", (event.site_prefix,)
        ).fetchone():
            raise Refused(
                "site.prefix.taken",
                f"the prefix {event.site_prefix} of certificate serials is the authority's own",
                hint="Make the site's workspace with another --site-prefix.",
                site_prefix=event.site_prefix,
            )
        self._insert_new("site", row, event.site)

    def _site(self, site: str) -> tuple[str, str | None, int, str, int]:
        row = self._database.execute(
            "SELECT mode, stopped, reported, root, settled FROM site WHERE site = ?", (site,)
        ).fetchone()
        if row is None:
            raise Refused(
                "site.unknown",
                f"there is no site {site}",
                hint="`birthmark site list` shows all; `birthmark site add` adds one.",
                site=site,
            )
        mode, stopped, reported, root, settled = row
        return mode, stopped, reported, root, settled

    def _site_stopped(self, event: e.SiteStopped, attachment: bytes, seq: int) -> None:
        self._site(event.site)
        self._database.execute("UPDATE site SET stopped = ? WHERE site = ?", (event.reason, event.site))

    def _site_resumed(self, event: e.SiteResumed, attachment: bytes, seq: int) -> None:
        self._site(event.site)
        self._database.execute("UPDATE site SET stopped = NULL WHERE site = ?", (event.site,))

    def _require_working(self, site: str) -> str:
        """Return the mode of a site that is not stopped."""
        mode, stopped, *_ = self._site(site)
        if stopped is not None:
            raise Refused(
                "site.stopped",
                f"site {site} is stopped: {stopped}",
                hint="Look at its findings; `birthmark site resume` lets it work again.",
                site=site,
            )
        return mode

    def _access_granted(self, event: e.AccessGranted, attachment: bytes, seq: int) -> None:
        row = (event.spki_sha256, event.name, event.role, event.site, None, seq)
        self._insert_new("access", row, event.spki_sha256)

    def _access_withdrawn(self, event: e.AccessWithdrawn, attachment: bytes, seq: int) -> None:
        changed = self._database.execute(
            "UPDATE access SET withdrawn = ? WHERE spki_sha256 = ? AND withdrawn IS NULL",
            (event.reason, event.spki_sha256),
        ).rowcount
        if changed != 1:
            raise Refused(
                "access.unknown",
                "no certificate with that key is let in",
                hint="`birthmark access list` shows who is.",
                spki_sha256=event.spki_sha256,
            )

    def _order_assigned(self, event: e.OrderAssigned, attachment: bytes, seq: int) -> None:
        mode = self._require_working(event.site)
        made = self._database.execute(
            "SELECT count(*), count(*) FILTER (WHERE state <> 'ordered') FROM chunk WHERE \"order\" = ?", (event.order,)
        ).fetchone()
        if mode != event.mode or not made[0] or (event.mode == "factory_ca" and made[1]):
            raise Refused(
                "order.assignment",
                f"order {event.order} cannot be made at {event.site} in mode {event.mode}",
                hint="An order that a site signs for itself must not be made here; `birthmark order show` tells.",
                order=event.order,
                site=event.site,
                mode=event.mode,
            )
        self._signed_here.clear()
        self._insert_new("assignment", (event.order, event.site, event.mode, seq), event.order)

    def _assignment(self, order: str) -> tuple[str, str] | None:
        row = self._database.execute('SELECT site, mode FROM assignment WHERE "order" = ?', (order,)).fetchone()
        return None if row is None else (row[0], row[1])

    def begin(self) -> None:
        """A transaction begins: what was looked up in the one before may have changed."""
        self._signed_here.clear()

    def _require_signed_here(self, order: str) -> None:
        if order in self._signed_here:
            return
        assigned = self._assignment(order)
        if assigned is not None and assigned[1] == "factory_ca":
            raise self._assigned(order, assigned[0])
        self._signed_here.add(order)

    def _require_drawn_by(self, order: str, station: str) -> None:
        assigned = self._assignment(order)
        if assigned is None:
            return
        site, mode = assigned
        if mode != "online" or station.partition("/")[0] != site:
            raise self._assigned(order, site)

    def _assigned(self, order: str, site: str) -> Refused:
        return Refused(
            "order.assigned",
            f"the devices of order {order} are made at site {site}, and nowhere else",
            hint="Use a station of that site, or another order.",
            order=order,
            site=site,
        )

    def _bundle_sealed(self, event: e.BundleSealed, attachment: bytes, seq: int) -> None:
        self._require_working(event.site)
        if self._assignment(event.order) != (event.site, "pool"):
            raise self._assigned(event.order, (self._assignment(event.order) or ("none",))[0])
        self._insert_new("bundle", (event.bundle, event.order, event.site, event.devices, seq), event.bundle)

    def _consigned(self, event: e.Consigned, attachment: bytes, seq: int) -> None:
        bundle = self._database.execute('SELECT "order" FROM bundle WHERE bundle = ?', (event.bundle,)).fetchone()
        (touched,) = self._database.execute(
            'SELECT count(*) FROM device WHERE "order" = ? AND chunk = ? AND state IS NOT NULL',
            (event.order, event.chunk),
        ).fetchone()
        changed = self._database.execute(
            "UPDATE chunk SET state = 'consigned' WHERE \"order\" = ? AND chunk = ? AND state = 'issued' AND count = ?",
            (event.order, event.chunk, event.count + touched),
        ).rowcount
        if changed != 1 or bundle != (event.order,) or event.count < 1:
            raise Refused(
                "ledger.chunk",
                f"chunk {event.chunk} of {event.order} does not leave with {event.count} devices",
                hint=SETTLE_HINT,
                chunk=event.chunk,
            )

    def _site_reported(self, event: e.SiteReported, attachment: bytes, seq: int) -> None:
        _, _, reported, _, _ = self._site(event.site)
        if event.size <= reported or octets_of(event.root, 32) is None:
            raise Refused(
                "site.head",
                f"a head of {event.size} entries does not follow the {reported} that site {event.site} reported",
                hint="Nothing is new in this report.",
                site=event.site,
                size=event.size,
                reported=reported,
            )
        self._database.execute(
            "UPDATE site SET reported = ?, root = ? WHERE site = ?", (event.size, event.root, event.site)
        )

    def _site_settled(self, event: e.SiteSettled, attachment: bytes, seq: int) -> None:
        _, _, reported, _, settled = self._site(event.site)
        lines = [line.split(" ") for line in attachment.decode("ascii", "replace").split("\n")] if attachment else []
        assigned = self._assignment(event.order)
        lawful = all(len(line) == 4 and line[1] in _SETTLED_STATES and line[2].isdecimal() for line in lines)
        fits = settled <= event.upto <= reported and len(lines) == event.count
        if not lawful or not fits or assigned is None or assigned[0] != event.site:
            raise self._unsettled(event)
        rows = [(serial, state, event.order) for serial, state, _, _ in lines]
        if rows and self._database.executemany(_SETTLE_DEVICE, rows).rowcount != event.count:
            raise self._unsettled(event)
        self._database.executemany(
            "INSERT INTO settled VALUES (?, ?, ?) ON CONFLICT (device_serial) DO UPDATE"
            " SET site = excluded.site, site_seq = excluded.site_seq",
            [(serial, event.site, int(number)) for serial, _, number, _ in lines],
        )
        if assigned[1] == "factory_ca":
            self._take_keys([key for *_, key in lines if key != "-"], event, seq)
        self._database.execute("UPDATE site SET settled = ? WHERE site = ?", (event.upto, event.site))

    def _take_keys(self, keys: list[str], event: e.SiteSettled, seq: int) -> None:
        """Take in the keys that the site's own CA certified: they are unique over all sites."""
        hashes = [octets_of(key, 32) for key in keys]
        known = [key for key in hashes if key is not None]
        if len(known) != len(hashes):
            raise self._unsettled(event)
        if known:
            self._require_new_keys(known, seq, None)
            packed = b"".join(key + bytes(32) for key in known)
            self._database.execute("INSERT INTO site_key VALUES (?, ?)", (seq, packed))

    def _unsettled(self, event: e.SiteSettled) -> Refused:
        return Refused(
            "site.settlement",
            f"{event.count} devices of order {event.order} cannot be settled for site {event.site}",
            hint="Ingest the site's report again; if it repeats, run `birthmark audit verify`.",
            site=event.site,
            order=event.order,
            upto=event.upto,
        )

    def _finding_raised(self, event: e.FindingRaised, attachment: bytes, seq: int) -> None:
        self._site(event.site)
        row = (seq, event.site, event.code, event.device, event.entry)
        self._database.execute("INSERT INTO finding VALUES (?, ?, ?, ?, ?)", row)

    def _grant_accepted(self, event: e.GrantAccepted, attachment: bytes, seq: int) -> None:
        known = dict(self._database.execute("SELECT name, value FROM meta WHERE name LIKE 'authority%'").fetchall())
        if known.get("authority_vkey", event.vkey) != event.vkey:
            raise Refused(
                "site.authority",
                "this site belongs to another authority",
                hint="A site's log has one authority for ever: make another workspace.",
                authority=known["authority"],
            )
        rows = [("authority", event.authority), ("authority_vkey", event.vkey), ("mode", event.mode)]
        self._database.executemany(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", rows
        )

    def _bundle_opened(self, event: e.BundleOpened, attachment: bytes, seq: int) -> None:
        self._insert_new("bundle", (event.bundle, event.order, None, event.devices, seq), event.bundle)

    def _approvers_set(self, event: e.ApproversSet, attachment: bytes, seq: int) -> None:
        if not 1 <= event.threshold <= len(set(event.vkeys)) or len(set(event.vkeys)) != len(event.vkeys):
            raise Refused(
                "approval.threshold",
                f"{event.threshold} of {len(event.vkeys)} approvers is no rule",
                hint="Name each approver once, and ask for at least one of them.",
                threshold=event.threshold,
            )
        self._database.execute("INSERT INTO approvers VALUES (?, ?, ?)", (seq, event.threshold, "\n".join(event.vkeys)))

    def _approval_used(self, event: e.ApprovalUsed, attachment: bytes, seq: int) -> None:
        self._insert_new("approval", (event.plan_sha256, event.action, seq), event.plan_sha256)
