"""The steps of issuing for a key that was born in a device, whoever orders them: one by one or many in one commit.

``examine`` (before a transaction) → ``reserve`` (in ``tx1``) → ``sign`` → ``store`` (in ``tx2``). Between ``tx1``
and ``tx2`` a crash leaves a reservation that the same attempt finds again and gets signed exactly as it was reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from birthmark.errors import Refused, Tampered
from birthmark.model.device import LIVE, DeviceState
from birthmark.model.events import Issued, Reserved
from birthmark.model.records import AttemptRecord, DeviceRecord, IntentRecord, OrderRecord
from birthmark.pki.csr import Csr, parse_csr
from birthmark.pki.derread import read_der, read_members
from birthmark.pki.issuer import Permit
from birthmark.ports import CredentialRequest, Entropy, Records, Transaction
from birthmark.workflow.handout import known_device, not_available, record_of, reused_attempt
from birthmark.workflow.orders.permits import Permits

__all__ = [
    "Issuing",
    "Reservation",
    "Wish",
    "accepted_csr",
    "device_order",
    "issue_reserved",
    "require_kind",
    "require_open",
    "reservation_of",
]

_RANDOM_OCTETS = 8


@dataclass(frozen=True, slots=True)
class Wish:
    """A request that may be fulfilled. ``permit``: None if the attempt has its reservation, ``intent``, already."""

    request: CredentialRequest
    order: OrderRecord
    csr: Csr
    permit: Permit | None
    intent: IntentRecord | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A wish whose intent ``intent`` is appended; ``tbs`` is what may be signed once that is durable."""

    wish: Wish
    permit: Permit
    intent: IntentRecord
    tbs: bytes


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is going to be reserved."""

    wish: Wish
    permit: Permit
    event: Reserved
    serial_prefix: bytes
    records: bytes
    tbs: bytes

    def appended(self, intent: int) -> Reservation:
        record = IntentRecord(
            intent=intent,
            order=self.event.order,
            chunk=None,
            count=1,
            state="reserved",
            issued_seq=None,
            template=self.event.template,
            serial_prefix=self.serial_prefix,
            records=self.records,
        )
        return Reservation(self.wish, self.permit, record, self.tbs)


class Issuing:
    """Issues from the CAs of this workspace. ``lint_each``: lint every TBS before it is reserved, not its template
    alone (docs/adr/0006)."""

    def __init__(self, *, records: Records, permits: Permits, entropy: Entropy, lint_each: bool) -> None:
        self._records = records
        self._permits = permits
        self._entropy = entropy
        self._lint_each = lint_each
        self._orders: dict[str, OrderRecord] = {}

    def examine(
        self, request: CredentialRequest, device: DeviceRecord, attempt: AttemptRecord | None, csr: Csr | None = None
    ) -> Wish:
        """Say what is to be done for a request, or refuse it. Call it outside a transaction: it may admit a template.

        ``attempt``: what is on record of the request's attempt; ``csr``: what ``parse_csr`` made of the request's, if
        it was read before.

        Raises ``Refused``: ``csr.*``, ``key.*``, ``device.has_identity``, ``device.reserved``,
        ``device.failed``, ``device.scrapped``, ``issue.csr.missing``, ``issue.key_origin``, ``issue.key_algorithm``,
        ``attempt.reused``, ``attempt.superseded``.
        """
        order = self._order_of(device)
        csr = accepted_csr(request) if csr is None else csr
        if attempt is not None:
            return Wish(request, order, csr, None, _reserved_by(self._records, attempt, request, csr))
        require_open(device)
        permit = self._permits.for_order(order)
        _check_request(csr, permit, order, request.device_serial)
        return Wish(request, order, csr, permit, None)

    def _order_of(self, device: DeviceRecord) -> OrderRecord:
        if device.order not in self._orders:
            # What is on record of an order never changes.
            self._orders[device.order] = device_order(self._records, device)
        return self._orders[device.order]

    def reserve(self, tx: Transaction, wish: Wish, at: str) -> Reservation:
        """Append the intent to sign for a wish; return it. Whoever was faster makes this a refusal."""
        draft = self._draft(tx.serial_prefixes(1)[0], wish, at)
        return draft.appended(tx.append(draft.event, draft.records))

    def reserve_together(self, tx: Transaction, wishes: Sequence[Wish], at: str) -> list[Reservation]:
        """``reserve`` for wishes of different devices in few database calls; all are reserved or all refused."""
        prefixes = tx.serial_prefixes(len(wishes))
        drafts = [self._draft(prefix, wish, at) for prefix, wish in zip(prefixes, wishes, strict=True)]
        first = tx.append_together([(draft.event, draft.records) for draft in drafts])
        return [draft.appended(first + place) for place, draft in enumerate(drafts)]

    def _draft(self, serial_prefix: bytes, wish: Wish, at: str) -> _Draft:
        if wish.permit is None:
            raise ValueError("this wish has its reservation")
        device_serial, template = wish.request.device_serial, wish.permit.template
        random = self._entropy(_RANDOM_OCTETS)
        tbs = _reserved_tbs(wish.permit, serial_prefix + random, device_serial, wish.csr.spki)
        if self._lint_each:
            # A finding ends the transaction: nothing is reserved for what may not be signed.
            self._permits.lint_exact(wish.permit, tbs, ca=wish.order.ca, device_serial=device_serial)
        event = Reserved(
            at=at,
            order=wish.order.order,
            count=1,
            serial_prefix=serial_prefix.hex(),
            template=template.template_hash.hex(),
            device=device_serial,
            attempt=wish.request.attempt,
        )
        records = random + sha256(wish.csr.spki).digest() + sha256(tbs).digest()
        return _Draft(wish, wish.permit, event, serial_prefix, records, tbs)

    def sign(self, wish: Wish, intent: IntentRecord) -> bytes:
        """Return the certificate (DER) for a reservation that is durable."""
        return issue_reserved(
            self._permits, intent, ca=wish.order.ca, device_serial=wish.request.device_serial, spki=wish.csr.spki
        )

    def sign_many(self, reservations: Sequence[Reservation]) -> list[bytes]:
        """Return the certificates (DER) of durable reservations of one permit, checked as those of a chunk are.

        Nothing is returned if one fails: ``Tampered`` as ``Issuer.sign_many``.
        """
        first = reservations[0]
        return self._permits.issuer(first.wish.order.ca).sign_many(
            first.permit,
            [reservation.tbs for reservation in reservations],
            verify="sample",
            tbs_hashes=[record_of(reservation.intent, 0)[2] for reservation in reservations],
        )

    def store(self, tx: Transaction, wish: Wish, intent: int, certificate: bytes, at: str) -> int:
        """Append the certificate; return the number of its entry. ``ledger.intent``: somebody was faster."""
        return tx.append(Issued(at=at, device=wish.request.device_serial, intent=intent), certificate)

    def store_together(self, tx: Transaction, signed: Sequence[tuple[Wish, int, bytes]], at: str) -> int:
        """``store`` for (wish, intent, certificate) of different devices; return the number of the first entry."""
        return tx.append_together(
            [
                (Issued(at=at, device=wish.request.device_serial, intent=intent), certificate)
                for wish, intent, certificate in signed
            ]
        )

    def chain(self, order: OrderRecord) -> tuple[bytes, ...]:
        """Return the chain (DER) that devices of an order get, issuing CA first."""
        return self._permits.issuer(order.ca).chain_der


def reservation_of(records: Records, request: CredentialRequest, csr: Csr) -> IntentRecord | None:
    """Return the intent of this attempt, None for a new one; refuse it if it was for something else."""
    attempt = records.attempt(request.attempt)
    return None if attempt is None else _reserved_by(records, attempt, request, csr)


def _reserved_by(records: Records, attempt: AttemptRecord, request: CredentialRequest, csr: Csr) -> IntentRecord:
    if attempt.device_serial != request.device_serial or attempt.kind != "reserved":
        raise reused_attempt(request, attempt.device_serial)
    intent = records.intent(attempt.seq)
    device = known_device(records, request.device_serial)
    if intent is None or intent.state == "abandoned" or device.intent != intent.intent:
        raise Refused(
            "attempt.superseded",
            f"attempt {request.attempt} reserved an identity that was given up since",
            hint="Start a new attempt: the device was reworked meanwhile.",
            attempt=request.attempt,
            device_serial=request.device_serial,
        )
    if (ended := not_available(device)) is not None:
        raise ended
    if record_of(intent, 0)[1] != sha256(csr.spki).digest():
        raise reused_attempt(request, "another key")
    return intent


def issue_reserved(permits: Permits, intent: IntentRecord, *, ca: str, device_serial: str, spki: bytes) -> bytes:
    """Return the certificate (DER) for a reservation of one, signed over exactly the TBS that was reserved.

    Raises ``Tampered("issue.tbs.differs")`` if template and record do not lead to that TBS, and what
    ``Permits.for_template`` and ``Issuer.issue`` raise.
    """
    permit = permits.for_template(intent.template, ca)
    cert_serial, _, tbs_hash = record_of(intent, 0)
    tbs = _reserved_tbs(permit, cert_serial, device_serial, spki)
    _require_same(sha256(tbs).digest() == tbs_hash, device_serial)
    certificate = permits.issuer(ca).issue(
        permit, cert_serial=cert_serial, device_serial=device_serial.encode("ascii"), spki=spki
    )
    signed = read_members(read_der(certificate))[0].whole
    _require_same(sha256(signed).digest() == tbs_hash, device_serial)
    return certificate


def _reserved_tbs(permit: Permit, cert_serial: bytes, device_serial: str, spki: bytes) -> bytes:
    """Return what is to be signed (DER); every value is checked before it goes into the template.

    ``spki`` is that of a request which was accepted: its point was found on the curve then.
    """
    template, name = permit.template, device_serial.encode("ascii")
    filler, key_id = template.filler(len(name)), template.key_algorithm.key_id(spki)
    return filler.checked_fill(cert_serial, name, spki, key_id, own_key=True)


def accepted_csr(request: CredentialRequest) -> Csr:
    """Return the request of a device (proof of possession holds, key is sound), or refuse: ``csr.*``, ``key.*``."""
    if request.csr is None:
        raise Refused(
            "issue.csr.missing",
            f"the key of {request.device_serial} is born in the device, and no request came with it",
            hint="Use a target that makes its own key.",
            device_serial=request.device_serial,
        )
    return parse_csr(request.csr)


def device_order(records: Records, device: DeviceRecord) -> OrderRecord:
    """Return the order of a device whose key is born in it; ``Refused("issue.key_origin")`` for any other."""
    order = records.order(device.order)
    if order is None or order.key_origin != "device":
        raise Refused(
            "issue.key_origin",
            f"the key of {device.device_serial} is not born in the device",
            hint="Its identity is drawn from the pool: use a target that takes keys.",
            device_serial=device.device_serial,
            order=device.order,
        )
    return order


def _check_request(csr: Csr, permit: Permit, order: OrderRecord, device_serial: str) -> None:
    template = permit.template
    csr.check_against(template.profile, device_serial, values=template.file.product_values)
    require_kind(csr, order)


def require_kind(csr: Csr, order: OrderRecord) -> None:
    """Return if a request's key is of the kind that its order names, else ``Refused("issue.key_algorithm")``."""
    if csr.kind != order.key_algorithm:
        raise Refused(
            "issue.key_algorithm",
            f"the device has a key of kind {csr.kind}, the order asks for {order.key_algorithm}",
            hint="Make a key of the kind the order names in the device.",
            kind=csr.kind,
            order=order.order,
        )


def require_open(device: DeviceRecord) -> None:
    """Return if a device may get an identity now, else refuse: ``device.*``."""
    if device.state is DeviceState.ORDERED:
        return
    if (ended := not_available(device)) is not None:
        raise ended
    if device.state in LIVE:
        raise Refused(
            "device.has_identity",
            f"device {device.device_serial} has an identity already and is {device.state}",
            hint="Run `birthmark device rework` with a reason; the old identity is then revoked.",
            device_serial=device.device_serial,
            state=str(device.state),
        )
    raise Refused(
        "device.reserved",
        f"another attempt holds a reservation for {device.device_serial}",
        hint="Finish that attempt, or run `birthmark device rework` with a reason.",
        device_serial=device.device_serial,
        held_by=device.attempt,
    )


def _require_same(same: bool, device_serial: str) -> None:
    if not same:
        raise Tampered(
            "issue.tbs.differs",
            f"what would be signed for {device_serial} is not what was reserved",
            hint="Stop and run `birthmark audit verify`.",
            device_serial=device_serial,
        )
