"""Issue one certificate for a key that was born in a device: reserve, sign, store, and only then hand out."""

from __future__ import annotations

from birthmark.errors import Refused
from birthmark.model.events import utc_text
from birthmark.model.records import DeviceRecord, IntentRecord
from birthmark.ports import Clock, Credential, CredentialRequest, Entropy, Ledger, Records
from birthmark.workflow.handout import check_ids, known_device, recording_refusals, stored_certificate
from birthmark.workflow.line.issuing import Issuing, Wish, reservation_of
from birthmark.workflow.orders.permits import Permits

__all__ = ["IssueSource"]


class IssueSource:
    """Implements ``ports.Source`` with a CA of this workspace.

    Power cut before ``Reserved``: nothing happened. Between ``Reserved`` and ``Issued``: the same attempt with the
    same key gets exactly the reserved TBS signed. After ``Issued``: it gets the certificate on record.
    Refusals, all on record: those of ``Issuing.examine``, ``key.reused``, ``lint.findings``, ``issuer.*``.
    """

    def __init__(self, *, ledger: Ledger, records: Records, permits: Permits, clock: Clock, entropy: Entropy) -> None:
        self._ledger = ledger
        self._records = records
        self._issuing = Issuing(records=records, permits=permits, entropy=entropy, lint_each=True)
        self._clock = clock

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the certificate for the key in ``request.csr``, or refuse on record."""
        check_ids(request)
        with recording_refusals(self._ledger, request, clock=self._clock):
            wish = self._issuing.examine(
                request,
                known_device(self._records, request.device_serial),
                self._records.attempt(request.attempt),
            )
            intent = wish.intent or self._reserve(wish)
        return self._finish(wish, intent)

    def _reserve(self, wish: Wish) -> IntentRecord:
        try:
            with self._ledger.transaction() as tx:
                self._issuing.reserve(tx, wish, utc_text(self._clock()))
        except Refused:
            # The same attempt may run twice at once; whoever comes second takes part in the first.
            if self._records.attempt(wish.request.attempt) is None:
                raise
        intent = reservation_of(self._records, wish.request, wish.csr)
        if intent is None:
            raise RuntimeError("a committed reservation is not there")
        return intent

    def _finish(self, wish: Wish, intent: IntentRecord) -> Credential:
        if intent.state == "reserved":
            certificate = self._issuing.sign(wish, intent)
            try:
                with self._ledger.transaction() as tx:
                    self._issuing.store(tx, wish, intent.intent, certificate, utc_text(self._clock()))
            except Refused as refusal:
                if refusal.code != "ledger.intent":
                    raise
        device = known_device(self._records, wish.request.device_serial)
        if device.issued_seq is None or device.intent != intent.intent:
            raise _not_issued(device)
        return Credential(
            device_serial=device.device_serial,
            certificate=stored_certificate(self._ledger, device),
            chain=self._issuing.chain(wish.order),
            private_key=None,
            intent=intent.intent,
            issued_seq=device.issued_seq,
        )


def _not_issued(device: DeviceRecord) -> Refused:
    return Refused(
        "attempt.superseded",
        f"the reservation of {device.device_serial} was given up while it was being signed",
        hint="Start a new attempt.",
        device_serial=device.device_serial,
    )
