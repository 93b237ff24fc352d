"""One certificate for a key that was born in a device, signed by a third party's service."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from birthmark.errors import Refused
from birthmark.model.events import Received, Requested, utc_text
from birthmark.model.ids import parse_attempt_id, parse_device_serial, parse_station_id
from birthmark.model.records import DeviceRecord, IntentRecord, OrderRecord
from birthmark.pki.answer import AnswerRule
from birthmark.pki.csr import Csr, parse_csr
from birthmark.ports import (
    Clock,
    Credential,
    CredentialRequest,
    KeptRequests,
    Ledger,
    Records,
    RequestStore,
    SigningRequest,
    SigningService,
)
from birthmark.workflow.authority.caimport import wanted_not_after
from birthmark.workflow.handout import (
    known_device,
    not_available,
    record_of,
    recording_refusals,
    reused_attempt,
    stored_certificate,
)
from birthmark.workflow.line.issuing import accepted_csr, device_order, require_kind, require_open
from birthmark.workflow.orders.procure import idempotency_key, matches_record

__all__ = ["AcquireSource"]


class AcquireSource:
    """Implements ``ports.Source`` with services of third parties. ``service``, ``rule``: of an order.

    Power cut before ``Requested``: nothing happened. Between ``Requested`` and ``Received``: the same attempt sends the
    very same request again. After ``Received``: it gets the certificate on record. Refusals, all on record: as of
    ``IssueSource``, what the service refuses, and ``acquire.request.lost``.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: Records,
        service: Callable[[OrderRecord], SigningService],
        rule: Callable[[OrderRecord], AnswerRule],
        store: RequestStore,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._service = service
        self._rule = rule
        self._store = store
        self._clock = clock

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the certificate for the key in ``request.csr``, or refuse on record."""
        parse_attempt_id(request.attempt)
        parse_station_id(request.station)
        parse_device_serial(request.device_serial)
        with recording_refusals(self._ledger, request, clock=self._clock):
            device = known_device(self._records, request.device_serial)
            order = device_order(self._records, device)
            csr = accepted_csr(request)
            if self._records.attempt(request.attempt) is None:
                self._request(request, device, order, csr)
            intent = self._intent(request, csr)
            if intent.state == "reserved":
                self._ask(request, order, csr, intent)
        device = known_device(self._records, request.device_serial)
        if device.issued_seq is None or device.intent != intent.intent:
            raise _given_up(request)
        return Credential(
            device_serial=device.device_serial,
            certificate=stored_certificate(self._ledger, device),
            chain=self._rule(order).chain,
            private_key=None,
            intent=intent.intent,
            issued_seq=device.issued_seq,
        )

    def _request(self, request: CredentialRequest, device: DeviceRecord, order: OrderRecord, csr: Csr) -> None:
        require_open(device)
        rule = self._rule(order)
        csr.check_against(rule.profile, request.device_serial, values=rule.values)
        require_kind(csr, order)
        event = Requested(
            at=utc_text(self._clock()),
            order=order.order,
            count=1,
            source=self._service(order).name,
            device=request.device_serial,
            attempt=request.attempt,
        )
        with self._ledger.transaction() as tx:
            intent = tx.append(event, sha256(csr.spki).digest() + sha256(csr.der).digest())
            self._store.put(order.order, intent, KeptRequests((csr.der,), None))

    def _intent(self, request: CredentialRequest, csr: Csr) -> IntentRecord:
        """Return the intent of this attempt; refuse it if it was for something else."""
        attempt = self._records.attempt(request.attempt)
        if attempt is None or attempt.device_serial != request.device_serial or attempt.kind != "reserved":
            raise reused_attempt(request, "nothing" if attempt is None else attempt.device_serial)
        intent = self._records.intent(attempt.seq)
        device = known_device(self._records, request.device_serial)
        if intent is None or intent.state == "abandoned" or device.intent != intent.intent:
            raise _given_up(request)
        if (ended := not_available(device)) is not None:
            raise ended
        if record_of(intent, 0)[1] != sha256(csr.spki).digest():
            raise reused_attempt(request, "another key")
        return intent

    def _ask(self, request: CredentialRequest, order: OrderRecord, csr: Csr, intent: IntentRecord) -> None:
        """Send the request that is on record; a device may spell its request anew each time, the record does not."""
        kept = self._store.kept(order.order, intent.intent)
        if kept is None or not matches_record(kept, intent):
            kept = KeptRequests((csr.der,), None)
        if not matches_record(kept, intent):
            raise Refused(
                "acquire.request.lost",
                f"the request of {request.device_serial} that is on record is lost, and the device made another",
                hint="Run `birthmark device rework` with a reason; the old request is then given up on record.",
                device_serial=request.device_serial,
            )
        rule = self._rule(order)
        (der,) = kept.requests
        wanted = wanted_not_after(rule.profile, self._clock())
        asked = SigningRequest(idempotency_key(der), der, request.device_serial, wanted)
        certificate = self._service(order).sign(asked)
        rule.check(
            certificate,
            spki=parse_csr(der).spki,
            device_serial=request.device_serial,
            wanted=wanted,
            now=self._clock(),
        )
        event = Received(at=utc_text(self._clock()), device=request.device_serial, intent=intent.intent)
        try:
            with self._ledger.transaction() as tx:
                tx.append(event, certificate)
        except Refused as refusal:
            # The same attempt may run twice at once: whoever comes second gets what the first one recorded.
            if refusal.code != "ledger.intent":
                raise
        self._store.remove(order.order, intent.intent)


def _given_up(request: CredentialRequest) -> Refused:
    return Refused(
        "attempt.superseded",
        f"attempt {request.attempt} asked for an identity that was given up since",
        hint="Start a new attempt: the device was reworked meanwhile.",
        attempt=request.attempt,
        device_serial=request.device_serial,
    )
