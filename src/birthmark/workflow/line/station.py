"""Provision one device: probe, obtain, install, read back, prove, record. Safe to cut at any instant and to repeat.

The attempt id is on disk before anything is asked for, the journal says ``installing`` before anything is written to
the device, and the device passes only after receipt and events are durable in the ledger. Every step before that can
be repeated with the same attempt id and the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Literal, NoReturn, TypeVar

from cryptography import x509

from birthmark.errors import BirthmarkError, DeviceFault, Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Failed, Installed, KeyErased, Rejected, Verified, utc_text
from birthmark.model.ids import parse_attempt_id, parse_device_serial
from birthmark.model.records import DeviceRecord, OrderRecord
from birthmark.pki.algorithms import spki_of
from birthmark.ports import (
    Attestation,
    CountsRepeats,
    Credential,
    CredentialRequest,
    Fence,
    JournalRecord,
    Probe,
    Source,
    Target,
)
from birthmark.wire.receipt import (
    Handshake,
    challenge_of,
)
from birthmark.workflow.handout import cert_serial_of, known_device, not_available, stored_certificate
from birthmark.workflow.line.readback import check_evidence, check_handshake, check_probe
from birthmark.workflow.line.residency import (
    NONCE_OCTETS,
    attested,
    require_residency,
    spki_of_request,
)
from birthmark.workflow.line.statement import Proof, make_receipt
from birthmark.workflow.line.stationpost import Outcome, Progress, ProvisionRequest, StationPost, new_attempt

__all__ = ["HandshakeCall", "Outcome", "Progress", "ProvisionRequest", "StationPost", "provision"]

_T = TypeVar("_T")
_CLOSED = frozenset({"done", "void"})
_NONCE_OCTETS = 32


HandshakeCall = Callable[[], Handshake]
"""Makes one mutual-TLS connection with the device's installed credential."""


def provision(
    post: StationPost,
    request: ProvisionRequest,
    *,
    target: Target,
    source: Source,
    fence: Fence,
    handshake: HandshakeCall | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Give one device its identity and prove it, or prove again that it has it.

    Power cut at any instant: the same call again finishes the same attempt. ``DeviceFault``, ``Tampered`` and
    ``Refused`` after a credential was obtained end the identity on record (``failed``); the device then needs rework.
    ``StationFault`` and ``Unavailable`` end nothing: mend, repeat. What is refused: ``device.unknown``,
    ``device.failed``, ``device.scrapped``, ``device.elsewhere``, ``station.key_origin``, ``station.made_elsewhere``,
    ``station.residency``, ``attempt.other``, and what the source refuses. Once ``fence`` holds no more, neither the
    device nor the ledger is touched again by this call.
    """
    return _Run(post, request, target, source, fence, handshake, progress).run()


class _Run:
    def __init__(
        self,
        post: StationPost,
        request: ProvisionRequest,
        target: Target,
        source: Source,
        fence: Fence,
        handshake: HandshakeCall | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self._post = post
        self._serial = parse_device_serial(request.device_serial)
        self._asked = None if request.attempt is None else parse_attempt_id(request.attempt)
        self._uri = request.target
        self._target = target
        self._source = source
        self._fence = fence
        self._residency = request.residency
        self._attestation: Attestation | None = None
        self._handshake = handshake
        self._progress = progress
        self._attempt: str = ""
        self._steps: list[tuple[str, float]] = []
        self._started = post.clock()

    def run(self) -> Outcome:
        try:
            device = known_device(self._post.records, self._serial)
            order = self._order_of(device)
            probe = self._step("probe", self._target.probe)
            check_probe(probe, self._serial)
            if device.state is DeviceState.VERIFIED:
                return self._already(device, order)
            self._require_open(device, order, probe)
            self._begin(device)
        except (Refused, DeviceFault) as fault:
            self._reject(fault)
        credential = self._installed_before(device, order, probe) or self._obtain(order, probe)
        try:
            self._fence.hold()
            self._write("installing")
            self._step("install", lambda: self._target.install(credential, self._fence))
            proof = self._prove(credential.certificate, credential.chain, credential)
        except (DeviceFault, Tampered, Refused) as fault:
            self._fail(fault)
        receipt = self._receipt(order, credential.certificate, proof)
        self._fence.hold()
        self._step("record", lambda: self._record(order, credential, proof, receipt))
        self._write("done")
        return self._outcome("pass", credential.certificate, proof, receipt)

    def _order_of(self, device: DeviceRecord) -> OrderRecord:
        order = self._post.records.order(device.order)
        if order is None:
            raise Tampered(
                "ledger.order.missing",
                f"the order of {self._serial} is not on record",
                hint="Stop and run `birthmark audit verify`.",
                device_serial=self._serial,
            )
        if order.key_origin not in _ORIGINS:
            raise Refused(
                "station.made_elsewhere",
                f"the devices of order {order.order} come with an identity: it is {order.key_origin}",
                hint="Use `birthmark station bind` for preloaded devices, `birthmark station adopt` for adopted ones.",
                order=order.order,
                key_origin=order.key_origin,
            )
        return order

    def _require_open(self, device: DeviceRecord, order: OrderRecord, probe: Probe) -> None:
        if (ended := not_available(device)) is not None:
            last = self._post.journal.last(self._serial)
            if last is not None and last.step not in _CLOSED:
                # The power went after the failure was on record and before the journal said so.
                self._post.journal.record(JournalRecord(last.attempt, self._serial, "void", last.target))
            raise ended
        if probe.makes_key != (order.key_origin == "device"):
            raise Refused(
                "station.key_origin",
                f"order {order.order} wants keys {_ORIGINS[order.key_origin]}, the target does the other",
                hint="Use a target that fits the order; `birthmark order show` tells its key origin.",
                order=order.order,
                key_origin=order.key_origin,
                target=self._uri,
            )
        require_residency(self._residency, probe, device_serial=self._serial, target=self._uri)

    def _begin(self, device: DeviceRecord) -> None:
        """Resume the open attempt of this device, or make one; it is on disk when this returns."""
        last = self._post.journal.last(self._serial)
        if last is not None and last.step not in _CLOSED:
            if self._is_stale(last.attempt, device):
                self._post.journal.record(JournalRecord(last.attempt, self._serial, "void", last.target))
            else:
                self._resume(last)
                return
        self._attempt = self._asked or new_attempt(self._post.entropy)
        self._write("begun")

    def _is_stale(self, attempt: str, device: DeviceRecord) -> bool:
        """Say whether an open attempt used its id for an identity that the device has no more."""
        return self._post.records.attempt(attempt) is not None and device.attempt != attempt

    def _resume(self, last: JournalRecord) -> None:
        if self._asked not in (None, last.attempt):
            raise Refused(
                "attempt.other",
                f"attempt {last.attempt} is under way for {self._serial}",
                hint="Repeat without an attempt id, or with that one.",
                device_serial=self._serial,
                held_by=last.attempt,
            )
        if last.target != self._uri:
            raise self._elsewhere(last.target)
        self._attempt = last.attempt

    def _elsewhere(self, target: str) -> Refused:
        return Refused(
            "device.elsewhere",
            f"the identity of {self._serial} went to another target: {target}",
            hint="Repeat it at that target; if this is another unit, it needs a serial and an identity of its own.",
            device_serial=self._serial,
            target=target,
        )

    def _obtain(self, order: OrderRecord, probe: Probe) -> Credential:
        csr = self._make_key(order, probe) if order.key_origin == "device" else None
        request = CredentialRequest(self._attempt, self._post.name, self._serial, csr)
        try:
            return self._step("obtain", lambda: self._source.obtain(request))
        except Refused:
            # The source has put its refusal on record; nothing was written to the device.
            self._write("void")
            raise

    def _installed_before(self, device: DeviceRecord, order: OrderRecord, probe: Probe) -> Credential | None:
        """Return the credential if the power went after this attempt installed it.

        Only for keys born in the device: asking again would make another key. ``install`` is repeated all the same: a
        certificate can be seen in the target before everything around it is durable.
        """
        if order.key_origin != "device" or device.attempt != self._attempt or device.issued_seq is None:
            return None
        certificate = stored_certificate(self._post.ledger, device)
        if probe.certificate != certificate or device.intent is None:
            return None
        chain = self._post.chain_of(order.ca)
        if probe.attests:
            self._attest(spki_of(x509.load_der_x509_certificate(certificate).public_key()))
        return Credential(self._serial, certificate, chain, None, device.intent, device.issued_seq)

    def _attest(self, spki: bytes) -> None:
        nonce = self._post.entropy(NONCE_OCTETS)
        self._attestation = self._step(
            "attest", lambda: attested(self._target, nonce, spki=spki, device_serial=self._serial)
        )

    def _make_key(self, order: OrderRecord, probe: Probe) -> bytes:
        algorithm = order.key_algorithm
        try:
            csr = self._step("make_key", lambda: self._target.make_key(algorithm, self._serial, self._fence))
            if probe.attests:
                self._attest(spki_of_request(csr))
            return csr
        except (Refused, DeviceFault) as fault:
            if known_device(self._post.records, self._serial).attempt == self._attempt:
                self._fail(fault)
            self._write("void")
            self._reject(fault)

    def _prove(self, certificate: bytes, chain: tuple[bytes, ...], credential: Credential | None) -> Proof:
        nonce = self._post.entropy(_NONCE_OCTETS).hex()
        challenge = challenge_of(
            origin=self._post.origin,
            station=self._post.name,
            attempt=self._attempt,
            device_serial=self._serial,
            cert_sha256=sha256(certificate).hexdigest(),
            nonce=nonce,
        )
        evidence = self._step("prove", lambda: self._target.prove(challenge))
        secret = None if credential is None else credential.private_key

        def verify() -> None:
            check_evidence(
                evidence,
                device_serial=self._serial,
                certificate=certificate,
                chain=chain,
                challenge=challenge,
                private_key=None if secret is None else secret.reveal(),
                now=self._post.clock(),
            )

        self._step("verify", verify)
        seen = None
        if self._handshake is not None:
            seen = self._step("handshake", self._handshake)
            check_handshake(seen, device_serial=self._serial, certificate=certificate)
        return Proof(nonce, challenge, evidence, seen)

    def _receipt(self, order: OrderRecord, certificate: bytes, proof: Proof) -> bytes:
        return make_receipt(
            self._post,
            proof,
            attempt=self._attempt,
            device_serial=self._serial,
            target=self._uri,
            certificate=certificate,
            key_origin="device" if order.key_origin == "device" else "injected",
            started=self._started,
            steps=self._steps,
            attestation=self._attestation,
        )

    def _record(self, order: OrderRecord, credential: Credential, proof: Proof, receipt: bytes) -> None:
        at = utc_text(self._post.clock())
        held = {"at": at, "device": self._serial, "station": self._post.name, "attempt": self._attempt}
        device = known_device(self._post.records, self._serial)
        with self._post.ledger.transaction() as tx:
            if device.state is not DeviceState.INSTALLED:
                cert_sha256 = sha256(credential.certificate).hexdigest()
                tx.append(Installed(**held, target=self._uri, cert_sha256=cert_sha256))
            digest = sha256(receipt).hexdigest()
            tx.append(Verified(**held, evidence=proof.evidence.kind, receipt_sha256=digest), receipt)
            if order.key_origin == "injected" and device.position is not None:
                tx.vault.erase(credential.intent, device.position)
                tx.append(KeyErased(at=at, device=self._serial, intent=credential.intent, reason="verified"))

    def _already(self, device: DeviceRecord, order: OrderRecord) -> Outcome:
        """Prove again that a verified device holds its identity. Nothing new is made or recorded."""
        last = self._post.journal.last(self._serial)
        if last is not None and last.target != self._uri:
            raise self._elsewhere(last.target)
        self._attempt = device.attempt or ""
        certificate = stored_certificate(self._post.ledger, device)
        proof = self._prove(certificate, self._post.chain_of(order.ca), None)
        if last is not None and last.step not in _CLOSED:
            self._post.journal.record(JournalRecord(last.attempt, self._serial, "done", last.target))
        return self._outcome("already", certificate, proof, None)

    def _outcome(
        self, outcome: Literal["pass", "already"], certificate: bytes, proof: Proof, receipt: bytes | None
    ) -> Outcome:
        device = known_device(self._post.records, self._serial)
        intent = None if device.intent is None else self._post.records.intent(device.intent)
        cert_serial = b"" if intent is None else cert_serial_of(self._post.ledger, intent, device)
        return Outcome(
            device_serial=self._serial,
            attempt=self._attempt,
            outcome=outcome,
            steps=tuple(self._steps),
            cert_serial=cert_serial.hex(),
            cert_sha256=sha256(certificate).hexdigest(),
            evidence=proof.evidence.kind,
            handshake=proof.handshake,
            receipt=receipt,
            link_repeats=self._target.link_repeats if isinstance(self._target, CountsRepeats) else None,
        )

    def _reject(self, fault: Refused | DeviceFault) -> NoReturn:
        """Put a refusal before any identity was touched on record, and tell it."""
        event = Rejected(
            at=utc_text(self._post.clock()),
            station=self._post.name,
            code=fault.code,
            device=self._serial,
            attempt=self._attempt or self._asked,
        )
        with self._post.ledger.transaction() as tx:
            tx.append(event)
        raise fault

    def _fail(self, fault: BirthmarkError) -> NoReturn:
        """End the identity on record, close the attempt, and tell the fault. If that cannot be kept, stay open."""
        event = Failed(
            at=utc_text(self._post.clock()),
            device=self._serial,
            station=self._post.name,
            attempt=self._attempt,
            code=fault.code,
        )
        with self._after(fault):
            with self._post.ledger.transaction() as tx:
                tx.append(event)
            self._write("void")
        raise fault

    @contextmanager
    def _after(self, fault: BirthmarkError) -> Iterator[None]:
        """Let the fault of the device be told even if its record failed: the open attempt in the journal stays."""
        try:
            yield
        except BirthmarkError as second:
            raise fault from second

    def _write(self, step: str) -> None:
        self._post.journal.record(JournalRecord(self._attempt, self._serial, step, self._uri))

    def _step(self, name: str, call: Callable[[], _T]) -> _T:
        begun = self._post.monotonic()
        attempt = self._attempt or None
        self._progress(Progress(attempt, self._serial, name, "start"))
        try:
            result = call()
        except BirthmarkError as problem:
            ms = round((self._post.monotonic() - begun) * 1000, 3)
            self._progress(Progress(attempt, self._serial, name, "failed", ms, problem.code))
            raise
        ms = round((self._post.monotonic() - begun) * 1000, 3)
        self._steps.append((name, ms))
        self._progress(Progress(attempt, self._serial, name, "ok", ms))
        return result


_ORIGINS = {"device": "born in the device", "injected": "made here and installed"}
