"""Draw a pooled identity: once, for one attempt, on record before the private key leaves the vault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key

from birthmark.errors import Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Drawn, decode_entry, utc_text
from birthmark.model.records import DeviceRecord
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import Clock, Credential, CredentialRequest, Ledger, Records, Transaction
from birthmark.wire.vault import VaultKey, open_slot
from birthmark.workflow.handout import (
    ChainOf,
    check_ids,
    known_device,
    not_available,
    record_of,
    recording_refusals,
    reused_attempt,
    stored_certificate,
)

__all__ = ["Draw", "Drawing", "PoolSource", "Sealed", "require_pair"]

_TAKEN = frozenset({DeviceState.DRAWN, DeviceState.INSTALLED, DeviceState.VERIFIED})
Sealed = tuple[bytes, bytes]
"""Encapsulated content key and slot."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A request that may be fulfilled. ``is_new``: the draw is not on record yet."""

    request: CredentialRequest
    device: DeviceRecord
    is_new: bool


class Drawing:
    """The steps of drawing, whoever orders them: ``examine`` → ``draw`` (in a transaction) → ``open`` (after it).

    ``vault_key`` is called when a slot is opened.
    """

    def __init__(
        self, *, ledger: Ledger, records: Records, vault_key: Callable[[], VaultKey], chain_of: ChainOf
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._vault_key = vault_key
        self._chain_of = chain_of

    def examine(self, request: CredentialRequest, device: DeviceRecord) -> Draw:
        """Say what is to be done for a request, or refuse it.

        Raises ``Refused``: ``device.scrapped``, ``device.failed``, ``pool.not_made``, ``pool.born_in_device``,
        ``pool.drawn``, ``attempt.reused``, ``attempt.superseded``.
        """
        again = self._drawn_before(request)
        if again is not None:
            return Draw(request, again, is_new=False)
        self._require_pooled(device)
        return Draw(request, device, is_new=True)

    def draw(self, tx: Transaction, draw: Draw, at: str) -> Sealed:
        """Put a draw on record and return its slot; ``pool.erased`` if there is none."""
        request = draw.request
        if draw.is_new:
            tx.append(Drawn(at=at, device=request.device_serial, station=request.station, attempt=request.attempt))
        return _slot(tx, draw.device)

    def settle(self, request: CredentialRequest, refusal: Refused) -> Draw:
        """Somebody was faster between looking and writing: take part in the same attempt, or say who it was."""
        if (same := self._drawn_before(request)) is not None:
            return Draw(request, same, is_new=False)
        device = self._records.device(request.device_serial)
        if refusal.code == "device.state" and device is not None and device.state in _TAKEN:
            raise _already_drawn(device) from refusal
        raise refusal

    def _drawn_before(self, request: CredentialRequest) -> DeviceRecord | None:
        """Return the device of an attempt that drew before, None for a new attempt."""
        attempt = self._records.attempt(request.attempt)
        if attempt is None:
            return None
        if attempt.device_serial != request.device_serial or attempt.kind != "drawn":
            raise reused_attempt(request, attempt.device_serial)
        if (station := self._station_of(attempt.seq)) != request.station:
            # Another station has another unit in its fixture: the same key would go to two.
            raise reused_attempt(request, f"station {station}")
        device = known_device(self._records, request.device_serial)
        if device.attempt != request.attempt:
            raise Refused(
                "attempt.superseded",
                f"attempt {request.attempt} drew an identity that was replaced since",
                hint="Start a new attempt: the device was reworked meanwhile.",
                attempt=request.attempt,
                device_serial=request.device_serial,
            )
        if (ended := not_available(device)) is not None:
            raise ended
        return device

    def _station_of(self, seq: int) -> str:
        """Return the station whose draw is log entry ``seq``."""
        events = [decode_entry(entry)[0] for _, entry in self._ledger.entries(seq, 1)]
        return events[0].station if events and isinstance(events[0], Drawn) else "unknown"

    def _require_pooled(self, device: DeviceRecord) -> None:
        if device.state is DeviceState.POOLED:
            return
        if (ended := not_available(device)) is not None:
            raise ended
        if device.state in _TAKEN:
            raise _already_drawn(device)
        order = self._records.order(device.order)
        if order is not None and order.key_origin != "injected":
            raise Refused(
                "pool.born_in_device",
                f"the key of {device.device_serial} is born in the device, the pool has none for it",
                hint="Use a target that makes its own key.",
                device_serial=device.device_serial,
            )
        raise Refused(
            "pool.not_made",
            f"the identity of {device.device_serial} is not made yet",
            hint=f"Run `birthmark order make {device.order}` first.",
            device_serial=device.device_serial,
            order=device.order,
        )

    def open(self, request: CredentialRequest, sealed: Sealed) -> Credential:
        """Return the credential in a slot, now that its draw is durable; ``Tampered`` if its parts do not fit."""
        device = known_device(self._records, request.device_serial)
        intent = None if device.intent is None else self._records.intent(device.intent)
        order = self._records.order(device.order)
        if intent is None or order is None or device.position is None or device.issued_seq is None:
            raise _inconsistent(device.device_serial, "it has no intent")
        _, spki_hash, _ = record_of(intent, device.position)
        certificate = stored_certificate(self._ledger, device)
        secret = open_slot(self._vault_key(), *sealed, device.position, spki_hash)
        require_pair(device.device_serial, certificate, secret, spki_hash)
        return Credential(
            device_serial=device.device_serial,
            certificate=certificate,
            chain=self._chain_of(order.ca),
            private_key=secret,
            intent=intent.intent,
            issued_seq=device.issued_seq,
        )


class PoolSource:
    """Implements ``ports.Source`` over the pool of this ledger.

    Power cut before ``Drawn`` is durable: nothing happened. After it: the same attempt gets the same key again until
    it is erased. Refusals, all on record: those of ``Drawing.examine`` and ``pool.erased``.
    """

    def __init__(
        self, *, ledger: Ledger, records: Records, vault_key: VaultKey, chain_of: ChainOf, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._drawing = Drawing(ledger=ledger, records=records, vault_key=lambda: vault_key, chain_of=chain_of)
        self._clock = clock

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the identity of the device, or refuse on record."""
        check_ids(request)
        with recording_refusals(self._ledger, request, clock=self._clock):
            sealed = self._take(request)
        # Only here, after the commit, is the slot opened.
        return self._drawing.open(request, sealed)

    def _take(self, request: CredentialRequest) -> Sealed:
        try:
            return self._draw(self._drawing.examine(request, known_device(self._records, request.device_serial)))
        except Refused as refusal:
            return self._draw(self._drawing.settle(request, refusal))

    def _draw(self, draw: Draw) -> Sealed:
        with self._ledger.transaction() as tx:
            return self._drawing.draw(tx, draw, utc_text(self._clock()))


def _slot(tx: Transaction, device: DeviceRecord) -> Sealed:
    sealed = None
    if device.intent is not None and device.position is not None:
        sealed = tx.vault.read(device.intent, device.position)
    if sealed is None:
        raise Refused(
            "pool.erased",
            f"the private key of {device.device_serial} was erased",
            hint="A device that lost its key needs `birthmark device rework`.",
            device_serial=device.device_serial,
        )
    return sealed


def _already_drawn(device: DeviceRecord) -> Refused:
    return Refused(
        "pool.drawn",
        f"the identity of {device.device_serial} was drawn before and is {device.state}",
        hint="Finish the attempt that holds it, or run `birthmark device rework` with a reason.",
        device_serial=device.device_serial,
        state=str(device.state),
        held_by=device.attempt,
    )


def require_pair(device_serial: str, certificate: bytes, secret: Secret, spki_hash: bytes) -> None:
    """Refuse a private key that is not that of the certificate and of the SPKI hash on record."""
    try:
        held = spki_of(load_der_private_key(secret.reveal(), None).public_key())
        named = spki_of(x509.load_der_x509_certificate(certificate).public_key())
    except UNREADABLE:
        raise _inconsistent(device_serial, "its key or certificate cannot be read") from None
    if held != named or sha256(held).digest() != spki_hash:
        raise _inconsistent(device_serial, "its key, its certificate and its reservation are not of one key")


def _inconsistent(device_serial: str, reason: str) -> Tampered:
    return Tampered(
        "pool.inconsistent",
        f"the pooled identity of {device_serial} cannot be used: {reason}",
        hint="Stop and run `birthmark audit verify`.",
        device_serial=device_serial,
    )
