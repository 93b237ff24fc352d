"""Rework and scrap: an old identity ends on record, with a reason, before a new one begins."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.errors import Refused, Unavailable
from birthmark.model.device import DeviceState
from birthmark.model.events import (
    Abandoned,
    Issued,
    KeyErased,
    Reserved,
    Revoked,
    Scrapped,
    Superseded,
    utc_text,
)
from birthmark.model.ids import parse_device_serial
from birthmark.model.records import DeviceRecord, OrderRecord
from birthmark.pki.algorithms import algorithm_named, spki_of
from birthmark.ports import Clock, Entropy, Ledger, Records, SealedChunk, Transaction
from birthmark.wire.vault import ChunkSealer, VaultRecipient
from birthmark.workflow.handout import cert_serial_of, known_device
from birthmark.workflow.line.issuing import issue_reserved
from birthmark.workflow.orders.permits import Permits

__all__ = ["Rework"]

_REASON_LIMIT = 200


class Rework:
    """Ends identities. One transaction ends the old identity and reserves the new one.

    Power cut before it: the old identity stands. After it and before the new certificate is on record: the device is
    reserved, and the same command again gives that reservation up and makes another.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: Records,
        permits: Permits,
        recipient: VaultRecipient,
        clock: Clock,
        entropy: Entropy,
        is_made_elsewhere: Callable[[str], bool] = lambda order: False,
    ) -> None:
        """``is_made_elsewhere``: whether a site signs for itself for an order, so that its identities are not here."""
        self._ledger = ledger
        self._records = records
        self._permits = permits
        self._recipient = recipient
        self._clock = clock
        self._entropy = entropy
        self._is_made_elsewhere = is_made_elsewhere

    def rework(self, device_serial: str, *, reason: str, by: str) -> DeviceRecord:
        """End the device's identity; return the device, pooled anew (injected keys) or ordered (born keys).

        Raises ``Refused``: ``device.unknown``, ``device.scrapped``, ``device.no_identity``, ``rework.reason``;
        ``Unavailable("device.changed")`` when another process was faster.
        """
        device, order = self._known(device_serial)
        _require_reason(reason)
        if device.state is DeviceState.SCRAPPED:
            raise Refused(
                "device.scrapped",
                f"device {device_serial} is scrapped",
                hint="Take the unit off the line; its serial gets no identity again.",
                device_serial=device_serial,
            )
        if device.state is DeviceState.ORDERED or self._in_bulk(device):
            raise Refused(
                "device.no_identity",
                f"device {device_serial} has no identity yet",
                hint="There is nothing to rework: make its order, or provision it.",
                device_serial=device_serial,
                state=str(device.state),
            )
        if order.key_origin == "injected":
            self._replace(device, order, reason=reason, by=by)
        else:
            with self._ledger.transaction() as tx:
                self._require_unchanged(device)
                self._end(tx, device, reason=reason, by=by)
        return known_device(self._records, device_serial)

    def scrap(self, device_serial: str, *, reason: str, by: str) -> DeviceRecord:
        """The unit is destroyed: its certificate is revoked, its sealed key erased. Return the device.

        Raises ``Refused``: ``device.unknown``, ``device.state`` (scrapped before), ``device.not_made``,
        ``rework.reason``; ``Unavailable("device.changed")`` when another process was faster.
        """
        device, order = self._known(device_serial)
        _require_reason(reason)
        unmade = device.state is DeviceState.ORDERED or self._in_bulk(device)
        if order.key_origin == "injected" and unmade and not self._is_made_elsewhere(order.order):
            raise Refused(
                "device.not_made",
                f"the identity of {device_serial} is not made yet",
                hint=f"Run `birthmark order make {order.order}` first, so that its identity ends on record.",
                device_serial=device_serial,
                order=order.order,
            )
        at = utc_text(self._clock())
        with self._ledger.transaction() as tx:
            self._require_unchanged(device)
            if device.state is DeviceState.RESERVED and device.intent is not None:
                tx.append(Abandoned(at=at, intent=device.intent, reason="scrapped"))
            else:
                self._revoke(tx, device, reason="cessationOfOperation", by=by)
            self._erase(tx, device, reason="scrapped")
            tx.append(Scrapped(at=at, device=device_serial, reason=reason, by=by))
        return known_device(self._records, device_serial)

    def _known(self, device_serial: str) -> tuple[DeviceRecord, OrderRecord]:
        device = known_device(self._records, parse_device_serial(device_serial))
        order = self._records.order(device.order)
        assert order is not None, "a device stands in an order"  # noqa: S101
        return device, order

    def _require_unchanged(self, device: DeviceRecord) -> None:
        """Inside the transaction: what ends must be the identity that was looked at, not one that replaced it."""
        if known_device(self._records, device.device_serial) != device:
            raise Unavailable(
                "device.changed",
                f"another process changed device {device.device_serial} meanwhile",
                hint="Look at it with `birthmark device show`; repeat the command if it is still needed.",
                device_serial=device.device_serial,
            )

    def _in_bulk(self, device: DeviceRecord) -> bool:
        """Say whether the device is part of a chunk that is being made."""
        if device.state is not DeviceState.RESERVED or device.intent is None:
            return False
        intent = self._records.intent(device.intent)
        return intent is not None and intent.chunk is not None

    def _cert_serial(self, device: DeviceRecord) -> bytes | None:
        if device.issued_seq is None or device.intent is None or device.position is None:
            return None
        order = self._records.order(device.order)
        if order is None or order.key_origin in ("preloaded", "adopted"):
            # Its serial is another signer's, and may be that of one of ours: it is not ours to revoke.
            return None
        intent = self._records.intent(device.intent)
        return None if intent is None else cert_serial_of(self._ledger, intent, device)

    def _end(self, tx: Transaction, device: DeviceRecord, *, reason: str, by: str) -> None:
        at = utc_text(self._clock())
        if device.state is DeviceState.RESERVED and device.intent is not None:
            tx.append(Abandoned(at=at, intent=device.intent, reason=reason))
            return
        cert_serial = self._cert_serial(device)
        self._revoke(tx, device, reason="superseded", by=by)
        self._erase(tx, device, reason="superseded")
        tx.append(
            Superseded(
                at=at,
                device=device.device_serial,
                reason=reason,
                by=by,
                cert_serial=None if cert_serial is None else cert_serial.hex(),
            )
        )

    def _revoke(self, tx: Transaction, device: DeviceRecord, *, reason: str, by: str) -> None:
        cert_serial = self._cert_serial(device)
        if cert_serial is not None and not self._records.is_revoked(cert_serial):
            tx.append(
                Revoked(
                    at=utc_text(self._clock()),
                    device=device.device_serial,
                    cert_serial=cert_serial.hex(),
                    reason=reason,
                    by=by,
                )
            )

    def _erase(self, tx: Transaction, device: DeviceRecord, *, reason: str) -> None:
        if device.intent is None or device.position is None:
            return
        if tx.vault.read(device.intent, device.position) is None:
            return
        tx.vault.erase(device.intent, device.position)
        tx.append(
            KeyErased(at=utc_text(self._clock()), device=device.device_serial, intent=device.intent, reason=reason)
        )

    def _replace(self, device: DeviceRecord, order: OrderRecord, *, reason: str, by: str) -> None:
        """End the old identity and make the new one, a pool of one."""
        permit = self._permits.for_order(order)
        key = algorithm_named(order.key_algorithm).generate()
        spki = spki_of(key.public_key())
        spki_hash, name = sha256(spki).digest(), device.device_serial.encode("ascii")
        sealer = ChunkSealer(self._recipient, self._entropy, order.key_algorithm)
        pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        sealed = SealedChunk(sealer.encapsulated, sealer.slot_size, sealer.seal(0, spki_hash, pkcs8))
        template, random = permit.template, self._entropy(8)
        filler = template.filler(len(name))
        with self._ledger.transaction() as tx:
            self._require_unchanged(device)
            self._end(tx, device, reason=reason, by=by)
            serial_prefix = tx.serial_prefixes(1)[0]
            tbs = filler.checked_fill(serial_prefix + random, name, spki, template.key_algorithm.key_id(spki))
            self._permits.lint_exact(permit, tbs, ca=order.ca, device_serial=device.device_serial)
            event = Reserved(
                at=utc_text(self._clock()),
                order=order.order,
                count=1,
                serial_prefix=serial_prefix.hex(),
                template=template.template_hash.hex(),
                device=device.device_serial,
            )
            seq = tx.append(event, random + spki_hash + sha256(tbs).digest())
        intent = self._records.intent(seq)
        assert intent is not None, "it was just recorded"  # noqa: S101
        certificate = issue_reserved(self._permits, intent, ca=order.ca, device_serial=device.device_serial, spki=spki)
        with self._ledger.transaction() as tx:
            tx.append(Issued(at=utc_text(self._clock()), device=device.device_serial, intent=seq), certificate)
            tx.vault.put(seq, sealed)


def _require_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > _REASON_LIMIT:
        raise Refused(
            "rework.reason",
            f"a reason of {len(reason)} characters",
            hint=f"Say in 1 to {_REASON_LIMIT} characters why the identity ends.",
            characters=len(reason),
        )
