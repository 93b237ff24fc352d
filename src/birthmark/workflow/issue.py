"""Issue one certificate for a key that was born in a device: reserve, sign, store, and only then hand out."""

from __future__ import annotations

from hashlib import sha256

from birthmark.errors import Refused, Tampered
from birthmark.model.device import LIVE, DeviceState
from birthmark.model.events import Issued, Reserved, utc_text
from birthmark.model.ids import parse_attempt_id, parse_device_serial, parse_station_id
from birthmark.model.records import DeviceRecord, IntentRecord, OrderRecord
from birthmark.pki.csr import Csr, parse_csr
from birthmark.pki.derread import read_der, read_members
from birthmark.pki.issuer import Permit
from birthmark.ports import Clock, Credential, CredentialRequest, Entropy, Ledger, Records
from birthmark.workflow.handout import (
    known_device,
    not_available,
    record_of,
    recording_refusals,
    reused_attempt,
    stored_certificate,
)
from birthmark.workflow.permits import Permits

__all__ = ["IssueSource", "accepted_request", "device_order", "issue_reserved", "require_open"]

_RANDOM_OCTETS = 8


class IssueSource:
    """Implements ``ports.Source`` with a CA of this workspace.

    Power cut before ``Reserved``: nothing happened. Between ``Reserved`` and ``Issued``: the same attempt with the
    same key gets exactly the reserved TBS signed. After ``Issued``: it gets the certificate on record.
    Refusals, all on record: ``csr.*``, ``key.*``, ``lint.findings``, ``issuer.*``, ``device.unknown``,
    ``device.has_identity``, ``device.reserved``, ``device.failed``, ``device.scrapped``, ``issue.csr.missing``,
    ``issue.key_origin``, ``attempt.reused``, ``attempt.superseded``.
    """

    def __init__(self, *, ledger: Ledger, records: Records, permits: Permits, clock: Clock, entropy: Entropy) -> None:
        self._ledger = ledger
        self._records = records
        self._permits = permits
        self._clock = clock
        self._entropy = entropy

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the certificate for the key in ``request.csr``, or refuse on record."""
        parse_attempt_id(request.attempt)
        parse_station_id(request.station)
        parse_device_serial(request.device_serial)
        with recording_refusals(self._ledger, request, clock=self._clock):
            device = known_device(self._records, request.device_serial)
            order = device_order(self._records, device)
            csr = accepted_request(request)
            if self._records.attempt(request.attempt) is None:
                try:
                    self._reserve(request, device, order, csr)
                except Refused:
                    # The same attempt may run twice at once; whoever comes second takes part in the first.
                    if self._records.attempt(request.attempt) is None:
                        raise
            intent = self._reservation(request, csr)
        return self._finish(request, order, csr, intent)

    def _reserve(self, request: CredentialRequest, device: DeviceRecord, order: OrderRecord, csr: Csr) -> None:
        require_open(device)
        permit = self._permits.for_order(order)
        _check_request(csr, permit, order, request.device_serial)
        random = self._entropy(_RANDOM_OCTETS)
        with self._ledger.transaction() as tx:
            serial_prefix = tx.serial_prefixes(1)[0]
            tbs = _tbs(permit, serial_prefix + random, request.device_serial, csr.spki)
            # A finding ends the transaction: nothing is reserved for what may not be signed.
            self._permits.lint_exact(permit, tbs, ca=order.ca, device_serial=request.device_serial)
            event = Reserved(
                at=utc_text(self._clock()),
                order=order.order,
                count=1,
                serial_prefix=serial_prefix.hex(),
                template=permit.template.template_hash.hex(),
                device=request.device_serial,
                attempt=request.attempt,
            )
            tx.append(event, random + sha256(csr.spki).digest() + sha256(tbs).digest())

    def _reservation(self, request: CredentialRequest, csr: Csr) -> IntentRecord:
        """Return the intent of this attempt; refuse it if it was for something else."""
        attempt = self._records.attempt(request.attempt)
        if attempt is None or attempt.device_serial != request.device_serial or attempt.kind != "reserved":
            raise reused_attempt(request, "nothing" if attempt is None else attempt.device_serial)
        intent = self._records.intent(attempt.seq)
        device = known_device(self._records, request.device_serial)
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

    def _finish(self, request: CredentialRequest, order: OrderRecord, csr: Csr, intent: IntentRecord) -> Credential:
        if intent.state == "reserved":
            certificate = issue_reserved(
                self._permits, intent, ca=order.ca, device_serial=request.device_serial, spki=csr.spki
            )
            event = Issued(at=utc_text(self._clock()), device=request.device_serial, intent=intent.intent)
            try:
                with self._ledger.transaction() as tx:
                    tx.append(event, certificate)
            except Refused as refusal:
                if refusal.code != "ledger.intent":
                    raise
        device = known_device(self._records, request.device_serial)
        if device.issued_seq is None or device.intent != intent.intent:
            raise _not_issued(device)
        return Credential(
            device_serial=device.device_serial,
            certificate=stored_certificate(self._ledger, device),
            chain=self._permits.issuer(order.ca).chain_der,
            private_key=None,
            intent=intent.intent,
            issued_seq=device.issued_seq,
        )


def issue_reserved(permits: Permits, intent: IntentRecord, *, ca: str, device_serial: str, spki: bytes) -> bytes:
    """Return the certificate (DER) for a reservation of one, signed over exactly the TBS that was reserved.

    Raises ``Tampered("issue.tbs.differs")`` if template and record do not lead to that TBS, and what
    ``Permits.for_template`` and ``Issuer.issue`` raise.
    """
    permit = permits.for_template(intent.template, ca)
    cert_serial, _, tbs_hash = record_of(intent, 0)
    tbs = _tbs(permit, cert_serial, device_serial, spki)
    _require_same(sha256(tbs).digest() == tbs_hash, device_serial)
    certificate = permits.issuer(ca).issue(
        permit, cert_serial=cert_serial, device_serial=device_serial.encode("ascii"), spki=spki
    )
    signed = read_members(read_der(certificate))[0].whole
    _require_same(sha256(signed).digest() == tbs_hash, device_serial)
    return certificate


def _tbs(permit: Permit, cert_serial: bytes, device_serial: str, spki: bytes) -> bytes:
    template, name = permit.template, device_serial.encode("ascii")
    return template.filler(len(name)).checked_fill(cert_serial, name, spki, template.key_algorithm.key_id(spki))


def accepted_request(request: CredentialRequest) -> Csr:
    """Return the request of the device; ``issue.csr.missing`` or ``csr.*``."""
    if request.csr is None:
        raise Refused(
            "issue.csr.missing",
            f"the key of {request.device_serial} is born in the device, and no request came with it",
            hint="Use a target that makes its own key.",
            device_serial=request.device_serial,
        )
    return parse_csr(request.csr)


def device_order(records: Records, device: DeviceRecord) -> OrderRecord:
    """Return the order of a device whose key it bears itself; else ``issue.key_origin``."""
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
    if csr.kind != order.key_algorithm:
        raise Refused(
            "issue.key_algorithm",
            f"the device has a key of kind {csr.kind}, the order asks for {order.key_algorithm}",
            hint="Make a key of the kind the order names in the device.",
            kind=csr.kind,
            order=order.order,
        )


def require_open(device: DeviceRecord) -> None:
    """Return if the device may get an identity now."""
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


def _not_issued(device: DeviceRecord) -> Refused:
    return Refused(
        "attempt.superseded",
        f"the reservation of {device.device_serial} was given up while it was being signed",
        hint="Start a new attempt.",
        device_serial=device.device_serial,
    )
