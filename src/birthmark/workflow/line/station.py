"""Provision one device: probe, obtain, install, read back, prove, record. Safe to cut at any instant and to repeat.

The attempt id is on disk before anything is asked for, the journal says ``installing`` before anything is written to
the device, and the device passes only after receipt and events are durable in the ledger. Every step before that can
be repeated with the same attempt id and the same result. Read ``_Run.run`` first: it is the life of one device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Literal, NoReturn, TypeVar

from cryptography import x509

from birthmark.errors import BirthmarkError, DeviceFault, Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.ids import parse_device_serial
from birthmark.model.records import DeviceRecord, OrderRecord
from birthmark.pki.algorithms import spki_of
from birthmark.ports import Attestation, CountsRepeats, Credential, CredentialRequest, Probe, Source, Target
from birthmark.ports.admission import Admission
from birthmark.wire.receipt import Handshake, challenge_of
from birthmark.workflow.handout import cert_serial_of, known_device, not_available, stored_certificate
from birthmark.workflow.line.attempt import JournalledAttempt
from birthmark.workflow.line.attempts import not_verified
from birthmark.workflow.line.fence import StationFence
from birthmark.workflow.line.readback import check_admission, check_evidence, check_handshake, check_probe
from birthmark.workflow.line.residency import NONCE_OCTETS, attested, require_residency, spki_of_request
from birthmark.workflow.line.statement import Proof, make_receipt
from birthmark.workflow.line.stationpost import Admitted, Outcome, Progress, ProvisionRequest, StationPost
from birthmark.workflow.line.verdict import Verdicts

__all__ = ["AdmitCall", "HandshakeCall", "Outcome", "Progress", "ProvisionRequest", "StationPost", "provision"]

_T = TypeVar("_T")
_NONCE_OCTETS = 32


HandshakeCall = Callable[[], Handshake]
"""Makes one mutual-TLS connection with the device's installed credential."""
AdmitCall = Callable[[Credential | None], Admission]
"""Shows the device to its cloud. The credential, while there is one, is for devices whose own key TLS cannot use."""


def provision(
    post: StationPost,
    request: ProvisionRequest,
    *,
    target: Target,
    source: Source,
    fence: StationFence,
    handshake: HandshakeCall | None = None,
    admit: AdmitCall | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Give one device its identity and prove it, or prove again that it has it.

    Power cut at any instant: the same call again finishes the same attempt. ``DeviceFault``, ``Tampered`` and
    ``Refused`` after a credential was obtained end the identity on record (``failed``); the device then needs rework.
    ``StationFault`` and ``Unavailable`` end nothing: mend, repeat. Neither does a cloud that says no to ``admit``: the
    device does not pass, and its identity stays with the attempt. What is refused: ``device.unknown``,
    ``device.failed``, ``device.scrapped``, ``device.elsewhere``, ``station.key_origin``, ``station.made_elsewhere``,
    ``station.residency``, ``attempt.other``, and what the source refuses. Once ``fence`` holds no more, neither the
    device nor journal and ledger are touched again by this call, whatever the device answers then:
    ``Unavailable(\"station.deadline\")`` or ``station.fenced``, and the attempt stays open.
    """
    parse_device_serial(request.device_serial)
    return _Run(post, request, target, source, fence, handshake, admit, progress).run()


class _Run:
    def __init__(
        self,
        post: StationPost,
        request: ProvisionRequest,
        target: Target,
        source: Source,
        fence: StationFence,
        handshake: HandshakeCall | None,
        admit: AdmitCall | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self._post = post
        self._serial = request.device_serial
        self._request = request
        self._target = target
        self._source = source
        self._fence = fence
        self._handshake = handshake
        self._admit = admit
        self._progress = progress
        self._attempt = JournalledAttempt(post.journal, request)
        self._verdicts = Verdicts(post, fence, device_serial=self._serial, target=request.target)
        self._attestation: Attestation | None = None
        self._steps: list[tuple[str, float]] = []
        self._started = post.clock()
        self._began = post.monotonic()

    def run(self) -> Outcome:
        """Reserve and issue (``_obtain``) → install → read back and verify (``_prove``) → commit, or void."""
        try:
            device = known_device(self._post.records, self._serial)
            order = self._order_of(device)
            probe = self._step("probe", self._target.probe)
            check_probe(probe, self._serial)
            if device.state is DeviceState.VERIFIED:
                return self._already(device, order)
            if self._request.proves_only:
                raise not_verified(self._serial, str(device.state))
            self._require_open(device, order, probe)
            self._attempt.begin(device, self._post.records, self._post.entropy)
        except (Refused, DeviceFault) as fault:
            self._reject(fault)
        credential = self._installed_before(device, order, probe) or self._obtain(order, probe)
        try:
            self._fence.hold()
            self._attempt.write("installing")
            self._step("install", lambda: self._target.install(credential, self._fence))
            proof = self._prove(credential.certificate, credential.chain, credential)
        except (DeviceFault, Tampered, Refused) as fault:
            self._fail(fault)
        try:
            proof = self._admitted(proof, credential.certificate, credential)
        except (DeviceFault, Tampered) as fault:
            self._fail(fault)
        receipt = self._receipt(order, credential.certificate, proof)
        self._step("record", lambda: self._verdicts.verified(self._attempt.id, order, credential, proof, receipt))
        self._attempt.write("done")
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
            # The power may have gone after the failure was on record and before the journal said so.
            self._attempt.close_open("void")
            raise ended
        if probe.makes_key != (order.key_origin == "device"):
            raise Refused(
                "station.key_origin",
                f"order {order.order} wants keys {_ORIGINS[order.key_origin]}, the target does the other",
                hint="Use a target that fits the order; `birthmark order show` tells its key origin.",
                order=order.order,
                key_origin=order.key_origin,
                target=self._request.target,
            )
        require_residency(self._request.residency, probe, device_serial=self._serial, target=self._request.target)

    def _obtain(self, order: OrderRecord, probe: Probe) -> Credential:
        csr = self._make_key(order, probe) if order.key_origin == "device" else None
        request = CredentialRequest(self._attempt.id, self._post.name, self._serial, csr)
        try:
            return self._step("obtain", lambda: self._source.obtain(request))
        except Refused:
            # The source has put its refusal on record; nothing was written to the device.
            self._fence.hold()
            self._attempt.write("void")
            raise

    def _installed_before(self, device: DeviceRecord, order: OrderRecord, probe: Probe) -> Credential | None:
        """Return the credential if the power went after this attempt installed it.

        Only for keys born in the device: asking again would make another key. ``install`` is repeated all the same: a
        certificate can be seen in the target before everything around it is durable.
        """
        if order.key_origin != "device" or device.attempt != self._attempt.id or device.issued_seq is None:
            return None
        certificate = stored_certificate(self._post.ledger, device)
        if probe.certificate != certificate or device.intent is None:
            return None
        chain = self._post.chain_of(order.ca)
        if probe.attests:
            self._attest(spki_of(x509.load_der_x509_certificate(certificate).public_key()))
        return Credential(self._serial, certificate, chain, None, device.intent, device.issued_seq)

    def _make_key(self, order: OrderRecord, probe: Probe) -> bytes:
        algorithm = order.key_algorithm
        try:
            csr = self._step("make_key", lambda: self._target.make_key(algorithm, self._serial, self._fence))
            if probe.attests:
                self._attest(spki_of_request(csr))
            return csr
        except (Refused, DeviceFault) as fault:
            if known_device(self._post.records, self._serial).attempt == self._attempt.id:
                self._fail(fault)
            self._fence.hold()
            self._attempt.write("void")
            self._reject(fault)

    def _attest(self, spki: bytes) -> None:
        nonce = self._post.entropy(NONCE_OCTETS)
        self._attestation = self._step(
            "attest", lambda: attested(self._target, nonce, spki=spki, device_serial=self._serial)
        )

    def _prove(self, certificate: bytes, chain: tuple[bytes, ...], credential: Credential | None) -> Proof:
        nonce = self._post.entropy(_NONCE_OCTETS).hex()
        challenge = challenge_of(
            origin=self._post.origin,
            station=self._post.name,
            attempt=self._attempt.id,
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

    def _admitted(self, proof: Proof, certificate: bytes, credential: Credential | None) -> Proof:
        """Show the device to its cloud. What the cloud says ends no identity: it may not know the device yet."""
        if self._admit is None:
            return proof
        admit = self._admit
        admission = self._step("cloud", lambda: admit(credential))
        check_admission(admission, device_serial=self._serial, certificate=certificate)
        return replace(proof, admitted=Admitted(admission, self._post.clock()))

    def _receipt(self, order: OrderRecord, certificate: bytes, proof: Proof) -> bytes:
        return make_receipt(
            self._post,
            proof,
            attempt=self._attempt.id,
            device_serial=self._serial,
            target=self._request.target,
            certificate=certificate,
            key_origin="device" if order.key_origin == "device" else "injected",
            started=self._started,
            steps=self._steps,
            attestation=self._attestation,
        )

    def _already(self, device: DeviceRecord, order: OrderRecord) -> Outcome:
        """Prove again that a verified device holds its identity. Nothing is made; a visit to a cloud goes on record."""
        self._attempt.require_here(device)
        certificate = stored_certificate(self._post.ledger, device)
        proof = self._prove(certificate, self._post.chain_of(order.ca), None)
        proof = self._admitted(proof, certificate, None)
        receipt = (
            None if proof.admitted is None else self._admission_on_record(order, certificate, proof, proof.admitted)
        )
        # The power may have gone after the device was on record and before the journal said so.
        self._attempt.close_open("done")
        return self._outcome("already", certificate, proof, receipt)

    def _admission_on_record(self, order: OrderRecord, certificate: bytes, proof: Proof, admitted: Admitted) -> bytes:
        """Put a further receipt on record, which says where a device that was verified before was let in."""
        receipt = self._receipt(order, certificate, proof)
        service = admitted.admission.service
        self._step("record", lambda: self._verdicts.admitted(self._attempt.id, proof, receipt, service))
        return receipt

    def _outcome(
        self, outcome: Literal["pass", "already"], certificate: bytes, proof: Proof, receipt: bytes | None
    ) -> Outcome:
        device = known_device(self._post.records, self._serial)
        intent = None if device.intent is None else self._post.records.intent(device.intent)
        cert_serial = b"" if intent is None else cert_serial_of(self._post.ledger, intent, device)
        return Outcome(
            device_serial=self._serial,
            attempt=self._attempt.id,
            outcome=outcome,
            steps=tuple(self._steps),
            ms=self._since(self._began),
            cert_serial=cert_serial.hex(),
            cert_sha256=sha256(certificate).hexdigest(),
            evidence=proof.evidence.kind,
            handshake=proof.handshake,
            admitted=proof.admitted,
            receipt=receipt,
            link_repeats=self._target.link_repeats if isinstance(self._target, CountsRepeats) else None,
        )

    def _reject(self, fault: Refused | DeviceFault) -> NoReturn:
        """Put a refusal before any identity was touched on record, and tell it."""
        self._verdicts.rejected(self._attempt.id or self._attempt.asked, fault.code)
        raise fault

    def _fail(self, fault: BirthmarkError) -> NoReturn:
        """End the identity on record, close the attempt, and tell the fault. If that cannot be kept, stay open."""
        try:
            self._verdicts.failed(self._attempt.id, fault.code)
        except Refused as changed:
            # Somebody ended this identity meanwhile; what the device did is still what has to be told.
            raise fault from changed
        self._attempt.write("void")
        raise fault

    def _since(self, moment: float) -> float:
        """Return milliseconds since a moment of the monotonic clock."""
        return round((self._post.monotonic() - moment) * 1000, 3)

    def _step(self, name: str, call: Callable[[], _T]) -> _T:
        begun, attempt = self._post.monotonic(), self._attempt.id or None
        self._progress(Progress(attempt, self._serial, name, "start"))
        try:
            result = call()
            if name != "record":
                # What comes too late is not believed; what is on record is.
                self._fence.hold()
        except BirthmarkError as problem:
            self._progress(Progress(attempt, self._serial, name, "failed", self._since(begun), problem.code))
            raise
        ms = self._since(begun)
        self._steps.append((name, ms))
        self._progress(Progress(attempt, self._serial, name, "ok", ms))
        return result


_ORIGINS = {"device": "born in the device", "injected": "made here and installed"}
