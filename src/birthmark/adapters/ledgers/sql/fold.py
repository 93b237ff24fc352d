"""How each event changes the tables. The same code runs when an event is written and when the log is replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from birthmark.adapters.ledgers.sql.database import Database
from birthmark.adapters.ledgers.sql.foldedtables import ADD_ATTEMPT, SETTLE_HINT, ClaimKeys, octets_of
from birthmark.adapters.ledgers.sql.foldpreload import PreloadFold
from birthmark.adapters.ledgers.sql.foldregister import check_registered
from birthmark.adapters.ledgers.sql.keyruns import RECORD_SIZE, REQUEST_SIZE, hashes_of, request_hashes_of
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.device import DeviceState, next_state
from birthmark.model.preloadevents import PRELOAD, origin_takes

__all__ = ["Fold"]

_MAX_SERIAL_OCTETS = 20
_ADD_INTENT = "INSERT INTO certificate VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'reserved', NULL, NULL) ON CONFLICT DO NOTHING"
_CLOSE_INTENT = (
    "UPDATE certificate SET state = 'issued', issued_seq = ?"
    " WHERE intent = ? AND state = 'reserved' AND device_serial = ?"
)
# The two steps of every device that makes its own key. Where they change nothing, the steps in full say why.
_RESERVE_DEVICE = """
UPDATE device SET state = 'reserved', intent = ?3, position = 0, attempt = ?4
WHERE device_serial = ?1 AND "order" = ?2
  AND coalesce(state, (SELECT c.state FROM chunk c WHERE c."order" = device."order" AND c.chunk = device.chunk))
      = 'ordered'
  AND (SELECT o.key_origin FROM "order" o WHERE o."order" = device."order") = 'device'"""
_ISSUED_DEVICE = """
UPDATE device SET state = 'issued', position = 0
WHERE device_serial = ?1 AND intent = ?2 AND state = 'reserved'
  AND (SELECT o.key_origin FROM "order" o WHERE o."order" = device."order") = 'device'"""


def _not_open(intent: int, device_serial: str | None) -> Refused:
    return Refused(
        "ledger.intent",
        f"intent {intent} is not open" + (f" for {device_serial}" if device_serial else ""),
        hint=SETTLE_HINT,
        intent=intent,
    )


class Fold(PreloadFold):
    """Applies events to the tables of one connection, inside the caller's transaction."""

    def __init__(self, database: Database, claim_keys: ClaimKeys) -> None:
        super().__init__(database, claim_keys)
        self._appliers: dict[type, Callable[[Any, bytes, int], None]] = {
            **self.site_appliers(),
            **self.preload_appliers(),
            e.WorkspaceCreated: self._workspace_created,
            e.SoftwareChanged: self._software_changed,
            e.StationAdded: self._station_added,
            e.CaCreated: self._ca_created,
            e.TemplateAdmitted: self._template_admitted,
            e.OrderCreated: self._order_created,
            e.DevicesOrdered: self._devices_ordered,
            e.Reserved: self._reserved,
            e.Abandoned: self._abandoned,
            e.Issued: self._issued,
            e.Requested: self._requested,
            e.Received: self._issued,
            e.Drawn: self._drawn,
            e.Installed: self._step,
            e.Verified: self._step,
            e.Admitted: self._step,
            e.Failed: self._step,
            e.Superseded: self._superseded,
            e.Revoked: self._revoked,
            e.Scrapped: self._scrapped,
            e.KeyErased: self._no_change,
            e.PossessionIntended: self._no_change,
            e.PossessionProven: self._no_change,
            e.Rejected: self._no_change,
            e.Registered: self._registered,
        }

    def apply(self, event: e.Event, attachment: bytes, seq: int) -> None:
        """Fold one event; refuse it when it is unlawful."""
        self._appliers[type(event)](event, attachment, seq)

    def apply_together(self, steps: Sequence[tuple[e.Event, bytes, int]]) -> bool:
        """Fold events of different devices, each kind in a few statements.

        False if one of them may be unlawful, or is not of a kind for this; rows may be changed all the same.
        """
        together: dict[type, Callable[[Sequence[tuple[Any, bytes, int]]], bool]] = {
            e.Reserved: self._reserved_together,
            e.Issued: self._issued_together,
        }
        for kind, group in groupby(steps, key=lambda step: type(step[0])):
            fold = together.get(kind)
            if fold is None or not fold(list(group)):
                return False
        return True

    def _reserved_together(self, steps: Sequence[tuple[Any, bytes, int]]) -> bool:
        rows, devices, attempts = [], [], []
        for event, attachment, seq in steps:
            prefix = octets_of(event.serial_prefix, 8)
            alone = event.device is not None and event.attempt is not None and event.chunk is None and event.count == 1
            if not alone or prefix is None or len(attachment) != RECORD_SIZE:
                return False
            self._require_new_keys(hashes_of(attachment), seq, event.device)
            self._require_signed_here(event.order)
            rows.append((seq, event.order, None, event.device, 1, event.template, prefix, attachment))
            devices.append((event.device, event.order, seq, event.attempt))
            attempts.append((event.attempt, event.device, "reserved", seq))
        return (
            self._database.executemany(_ADD_INTENT, rows).rowcount
            == self._database.executemany(_RESERVE_DEVICE, devices).rowcount
            == self._database.executemany(ADD_ATTEMPT, attempts).rowcount
            == len(steps)
        )

    def _issued_together(self, steps: Sequence[tuple[Any, bytes, int]]) -> bool:
        intents = [(seq, event.intent, event.device) for event, _, seq in steps]
        devices = [(event.device, event.intent) for event, _, _ in steps]
        return (
            self._database.executemany(_CLOSE_INTENT, intents).rowcount
            == self._database.executemany(_ISSUED_DEVICE, devices).rowcount
            == len(steps)
        )

    def issued_chunk(self, intent: int, *, count: int, first: int) -> None:
        """Fold all ``issued`` entries of a bulk intent at once."""
        row = self._database.execute(
            "UPDATE certificate SET state = 'issued', issued_seq = ? WHERE intent = ? AND state = 'reserved'"
            ' AND count = ? AND chunk IS NOT NULL RETURNING "order", chunk',
            (first, intent, count),
        ).fetchone()
        if row is None:
            raise Refused(
                "ledger.intent",
                f"no open bulk intent {intent} of {count} certificates",
                hint=SETTLE_HINT,
                intent=intent,
            )
        self._database.execute(
            "UPDATE chunk SET state = 'issued' WHERE \"order\" = ? AND chunk = ? AND intent = ?", (*row, intent)
        )

    # Each applier below is named after its event and takes (event, attachment, sequence number).

    def _no_change(self, event: e.Event, attachment: bytes, seq: int) -> None:
        """Fold nothing: the entry itself is the record."""

    def _registered(self, event: e.Registered, attachment: bytes, seq: int) -> None:
        check_registered(self._database, event, attachment, seq)

    def _workspace_created(self, event: e.WorkspaceCreated, attachment: bytes, seq: int) -> None:
        if seq != 0:
            raise Refused(
                "ledger.exists",
                "a log belongs to one workspace, named by its first entry",
                hint="Make another workspace with `birthmark init DIR`.",
                table="meta",
                name=event.workspace,
            )
        rows = [("origin", event.origin), ("site_prefix", event.site_prefix), ("software", event.software)]
        self._database.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def _software_changed(self, event: e.SoftwareChanged, attachment: bytes, seq: int) -> None:
        self._database.execute("UPDATE meta SET value = ? WHERE name = 'software'", (event.software,))

    def _station_added(self, event: e.StationAdded, attachment: bytes, seq: int) -> None:
        self._insert_new("station", (event.station, event.vkey, seq), event.station)

    def _ca_created(self, event: e.CaCreated, attachment: bytes, seq: int) -> None:
        self._insert_new("ca", (event.ca, event.kind, event.issuer, attachment, seq, event.site), event.ca)

    def _template_admitted(self, event: e.TemplateAdmitted, attachment: bytes, seq: int) -> None:
        self._insert_new("template", (event.template, event.ca, event.profile, attachment, seq), event.template)

    def _order_created(self, event: e.OrderCreated, attachment: bytes, seq: int) -> None:
        row = (event.order, event.product, event.profile, event.key_algorithm, event.key_origin, event.ca)
        self._insert_new("order", (*row, event.quantity, event.chunks, seq), event.order)

    def _devices_ordered(self, event: e.DevicesOrdered, attachment: bytes, seq: int) -> None:
        serials = attachment.decode("ascii", "replace").split("\n")
        added = self._database.execute(
            'INSERT INTO chunk SELECT "order", ?2, ?3, ?4, ?5, \'ordered\', NULL FROM "order"'
            ' WHERE "order" = ?1 AND ?2 BETWEEN 0 AND chunks - 1 AND ?3 BETWEEN 0 AND quantity - ?4'
            ' AND NOT EXISTS (SELECT 1 FROM chunk WHERE "order" = ?1 AND chunk = ?2)',
            (event.order, event.chunk, event.first, event.count, seq),
        ).rowcount
        if added != 1 or len(serials) != event.count or not attachment.isascii() or "" in serials:
            raise Refused(
                "ledger.chunk",
                f"chunk {event.chunk} of {event.count} devices does not fit order {event.order}",
                hint="Create the order again with `birthmark order create`.",
                chunk=event.chunk,
                order=event.order,
            )
        new = self._add_devices(event.order, event.chunk, serials)
        if new != event.count:
            raise self._duplicates(serials, event)

    def _duplicates(self, serials: list[str], event: e.DevicesOrdered) -> Refused:
        query = 'SELECT "order" FROM device WHERE device_serial = ? AND ("order", chunk) <> (?, ?)'
        orders = {
            serial: row[0]
            for serial in serials
            for row in self._database.execute(query, (serial, event.order, event.chunk))
        }
        named = sorted({*orders, *(s for s in serials if serials.count(s) > 1)})
        return Refused(
            "order.serial.duplicate",
            f"{len(named)} device serials are ordered twice, the first is {named[0]}",
            hint="Take them out of the list; one device serial has one identity.",
            device_serials=named[:20],
            orders=sorted(set(orders.values())),
        )

    def _reserved(self, event: e.Reserved, attachment: bytes, seq: int) -> None:
        prefix = octets_of(event.serial_prefix, 8)
        if len(attachment) != RECORD_SIZE * event.count or event.count < 1 or prefix is None:
            raise Refused("ledger.records", "records and count differ", hint=SETTLE_HINT, intent=seq)
        self._require_new_keys(hashes_of(attachment), seq, event.device)
        row = (seq, event.order, event.chunk, event.device, event.count, event.template, prefix, attachment)
        new = self._database.execute(_ADD_INTENT, row).rowcount
        if new != 1:
            raise Refused(
                "ledger.cert_serial",
                f"certificate serials with the prefix {event.serial_prefix} are given already",
                hint="Run the same command again; it takes another one.",
                serial_prefix=event.serial_prefix,
            )
        self._require_signed_here(event.order)
        self._reserve(event, seq)

    def _requested(self, event: e.Requested, attachment: bytes, seq: int) -> None:
        if len(attachment) != REQUEST_SIZE * event.count or event.count < 1:
            raise Refused("ledger.records", "records and count differ", hint=SETTLE_HINT, intent=seq)
        if event.source.startswith(PRELOAD):
            self._bind(event, attachment, seq)
        else:
            self._require_new_keys(request_hashes_of(attachment), seq, event.device)
        self._database.execute(
            "INSERT INTO certificate VALUES (?, ?, ?, ?, ?, '', NULL, ?, 'reserved', NULL, ?)",
            (seq, event.order, event.chunk, event.device, event.count, attachment, event.source),
        )
        self._reserve(event, seq)

    def _reserve(self, event: e.Reserved | e.Requested, seq: int) -> None:
        if event.device is None:
            self._reserve_chunk(event, seq)
        elif not self._reserve_open_device(event, seq):
            self._reserve_device(event, event.device, seq)

    def _reserve_chunk(self, event: e.Reserved | e.Requested, seq: int) -> None:
        changed = self._database.execute(
            "UPDATE chunk SET state = 'reserved', intent = ?1"
            " WHERE \"order\" = ?2 AND chunk = ?3 AND state = 'ordered' AND count = ?4"
            ' AND (SELECT key_origin FROM "order" WHERE "order" = ?2) = \'injected\'',
            (seq, event.order, event.chunk, event.count),
        ).rowcount
        if changed != 1 or event.attempt is not None:
            raise Refused(
                "ledger.chunk",
                f"chunk {event.chunk} of {event.order} is not open",
                hint=SETTLE_HINT,
                chunk=event.chunk,
            )

    def _reserve_open_device(self, event: e.Reserved | e.Requested, seq: int) -> bool:
        """Reserve a device that makes its own key, in one statement; tell whether there was such a device."""
        if event.chunk is not None or event.count != 1:
            return False
        if isinstance(event, e.Requested) and not origin_takes("device", event.source):
            return False
        row = (event.device, event.order, seq, event.attempt)
        if self._database.execute(_RESERVE_DEVICE, row).rowcount != 1:
            return False
        if event.attempt is not None:
            self._use_attempt(event.attempt, str(event.device), "reserved", seq)
        return True

    def _reserve_device(self, event: e.Reserved | e.Requested, device_serial: str, seq: int) -> None:
        device = self._device(device_serial)
        # A device of an open chunk gets its identity with the chunk; one more would be its second. At a site that asks
        # its authority online, no chunk is ever made.
        in_bulk = device.chunk_open and device.key_origin == "injected" and isinstance(event, e.Reserved)
        if in_bulk or event.chunk is not None or event.count != 1 or event.order != device.order:
            raise Refused(
                "ledger.chunk",
                f"device {device_serial} of order {device.order} cannot be reserved by itself",
                hint=SETTLE_HINT,
                device_serial=device_serial,
                chunk=event.chunk,
            )
        self._require_origin(device_serial, device.key_origin, event)
        state = next_state(device_serial, device.state, "reserved")
        if event.attempt is not None:
            self._use_attempt(event.attempt, device_serial, "reserved", seq)
        self._set_device(device_serial, state, intent=seq, position=0, attempt=event.attempt)

    def _abandoned(self, event: e.Abandoned, attachment: bytes, seq: int) -> None:
        row = self._database.execute(
            "UPDATE certificate SET state = 'abandoned' WHERE intent = ? AND state = 'reserved'"
            ' RETURNING "order", chunk, device_serial',
            (event.intent,),
        ).fetchone()
        if row is None:
            raise _not_open(event.intent, None)
        order, chunk, device_serial = row
        if device_serial is None:
            self._database.execute(
                "UPDATE chunk SET state = 'ordered', intent = NULL WHERE \"order\" = ? AND chunk = ?", (order, chunk)
            )
            return
        device = self._device(device_serial)
        if device.intent != event.intent:
            raise _not_open(event.intent, device_serial)
        state = next_state(device_serial, device.state, "abandoned")
        self._set_device(device_serial, state, intent=None, position=None, attempt=None)

    def _issued(self, event: e.Issued | e.Received, attachment: bytes, seq: int) -> None:
        changed = self._database.execute(_CLOSE_INTENT, (seq, event.intent, event.device)).rowcount
        row = (event.device, event.intent)
        if changed == 1 and self._database.execute(_ISSUED_DEVICE, row).rowcount == 1:
            return
        device = self._device(event.device)
        # An intent that the device has left (failed, reworked) stays open for ever, and is worth nothing.
        if changed != 1 or device.intent != event.intent:
            raise _not_open(event.intent, event.device)
        state = next_state(event.device, device.state, "pooled" if device.key_origin == "injected" else "issued")
        self._set_device(event.device, state, intent=event.intent, position=0, attempt=device.attempt)

    def _drawn(self, event: e.Drawn, attachment: bytes, seq: int) -> None:
        device = self._device(event.device)
        state = next_state(event.device, device.state, "drawn")
        self._require_drawn_by(device.order, event.station)
        self._use_attempt(event.attempt, event.device, "drawn", seq)
        self._set_device(event.device, state, intent=device.intent, position=device.position, attempt=event.attempt)

    def _step(self, event: e.Installed | e.Verified | e.Admitted | e.Failed, attachment: bytes, seq: int) -> None:
        device = self._device(event.device)
        name = str(type(event).__struct_config__.tag)
        # While its chunk is being made a device has nothing that could be installed or fail.
        state = next_state(event.device, DeviceState.ORDERED if device.chunk_open else device.state, name)
        if device.attempt not in (None, event.attempt):
            raise Refused(
                "attempt.other",
                f"device {event.device} is held by another attempt",
                hint="Finish or void the other attempt first; `birthmark device show` names it.",
                device_serial=event.device,
                attempt=event.attempt,
                held_by=device.attempt,
            )
        self._set_device(event.device, state, intent=device.intent, position=device.position, attempt=event.attempt)

    def _superseded(self, event: e.Superseded, attachment: bytes, seq: int) -> None:
        state = next_state(event.device, self._device(event.device).state, "superseded")
        self._set_device(event.device, state, intent=None, position=None, attempt=None)

    def _scrapped(self, event: e.Scrapped, attachment: bytes, seq: int) -> None:
        device = self._device(event.device)
        state = next_state(event.device, device.state, "scrapped")
        if device.chunk_open and device.key_origin == "injected":
            # Its chunk still speaks for it; a bulk run would make an identity for a scrapped unit.
            raise Refused(
                "device.unmade",
                f"the identity of device {event.device} is not made yet",
                hint="Run `birthmark order make` first, then scrap it.",
                device_serial=event.device,
            )
        self._set_device(event.device, state, intent=device.intent, position=device.position, attempt=device.attempt)

    def _revoked(self, event: e.Revoked, attachment: bytes, seq: int) -> None:
        # RFC 5280, 4.1.2.2: at most 20 octets; ours have 16, those of other signers what they like.
        cert_serial = octets_of(event.cert_serial, len(event.cert_serial) // 2)
        if cert_serial is None or not 1 <= len(cert_serial) <= _MAX_SERIAL_OCTETS:
            raise Refused(
                "ledger.records",
                f"{event.cert_serial[:80]!r} is not a certificate serial",
                hint=f"Give 1 to {_MAX_SERIAL_OCTETS} octets in lower-case hex.",
                device_serial=event.device,
            )
        self._device(event.device)
        row = (cert_serial, event.device, event.reason, seq)
        self._insert_new("revoked", row, event.cert_serial)
