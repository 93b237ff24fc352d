"""Devices whose identity was made elsewhere: a preloaded chip is bound to a device serial, a foreign one is adopted.

Nothing is written to the device. It is read, it signs a challenge, and then one transaction records everything: a power
cut before it leaves nothing, after it a verified device. A refusal is on record and ends no identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, NoReturn, Protocol, TypeVar

from cryptography import x509

from birthmark.errors import BirthmarkError, DeviceFault, Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Installed, Received, Requested, Verified, utc_text
from birthmark.model.ids import parse_attempt_id, parse_device_serial
from birthmark.model.preloadevents import ADOPTED, PRELOAD
from birthmark.model.records import DeviceRecord, OrderRecord, PreloadRecord
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.ports import Attestation, Evidence, PreloadRecords, Probe, Records, SiteRecords, Target
from birthmark.wire.receipt import challenge_of, evidence_holds
from birthmark.workflow.handout import cert_serial_of, known_device, not_available, stored_certificate
from birthmark.workflow.line.fence import StationFence
from birthmark.workflow.line.foreign import check_foreign
from birthmark.workflow.line.readback import check_evidence
from birthmark.workflow.line.residency import NONCE_OCTETS, Residency, attested, require_residency
from birthmark.workflow.line.statement import Proof, make_receipt
from birthmark.workflow.line.stationpost import Outcome, Progress, StationPost, new_attempt
from birthmark.workflow.line.verdict import Verdicts

__all__ = ["BindRecords", "BindRequest", "take_over"]

_T = TypeVar("_T")
_NONCE_OCTETS = 32
_TAKE_OFF = "Take it off the line and find out where it comes from; nothing was recorded for it."


class BindRecords(Records, SiteRecords, PreloadRecords, Protocol):
    """Reading all of the tables."""


@dataclass(frozen=True, slots=True)
class BindRequest:
    """``identity``: what the device calls itself, where that is neither its serial nor its vendor's id.

    ``target``: the URI of the target without secrets. ``attempt``: None makes one.
    """

    device_serial: str
    target: str
    attempt: str | None = None
    identity: str | None = None
    residency: Residency = "any"


def take_over(
    post: StationPost,
    records: BindRecords,
    request: BindRequest,
    *,
    origin: Literal["preloaded", "adopted"],
    target: Target,
    fence: StationFence,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Bind the preloaded identity in a device to its serial, or adopt its foreign one; or prove again that it has it.

    Raises ``Refused``: ``bind.role``, ``device.unknown``, ``device.failed``, ``device.scrapped``, ``device.state``,
    ``bind.key_origin``, ``bind.algorithm``, ``bind.evidence``, ``key.reused``, ``adopt.*``, ``station.residency``;
    ``DeviceFault``: ``bind.certificate.none``, ``bind.certificate.unknown``, ``bind.certificate.other``,
    ``device.identity.mismatch``, ``device.*`` as of ``readback``; ``Tampered``: ``bind.clone``, ``chain.*``.
    """
    return _Run(post, records, request, origin, target, fence, progress).run()


class _Run:
    def __init__(
        self,
        post: StationPost,
        records: BindRecords,
        request: BindRequest,
        origin: Literal["preloaded", "adopted"],
        target: Target,
        fence: StationFence,
        progress: Callable[[Progress], None],
    ) -> None:
        self._post, self._records, self._request = post, records, request
        self._origin: Literal["preloaded", "adopted"] = origin
        self._target = target
        self._fence = fence
        self._progress = progress
        self._began = post.monotonic()
        self._serial = parse_device_serial(request.device_serial)
        self._attempt = new_attempt(post.entropy) if request.attempt is None else parse_attempt_id(request.attempt)
        self._steps: list[tuple[str, float]] = []
        self._started = post.clock()

    def run(self) -> Outcome:
        try:
            self._require_authority()
            device = known_device(self._records, self._serial)
            order = self._order_of(device)
            probe = self._step("probe", self._target.probe)
            certificate = self._shown(probe)
            if device.state is DeviceState.VERIFIED:
                return self._already(device, certificate)
            known = self._lookup(device, order, probe, certificate)
            proof, attestation = self._prove(certificate, known, probe)
            receipt = self._receipt(certificate, proof, attestation)
            self._step("record", lambda: self._record(device, certificate, known, receipt))
        except (Refused, DeviceFault, Tampered) as fault:
            self._reject(fault)
        return self._outcome("pass", certificate, proof, receipt)

    def _require_authority(self) -> None:
        if self._records.authority() is not None:
            raise Refused(
                "bind.role",
                "a site takes over no devices that come with an identity",
                hint="Use a station of the authority: only there a key is looked for over all sites.",
                device_serial=self._serial,
            )

    def _order_of(self, device: DeviceRecord) -> OrderRecord:
        order = self._records.order(device.order)
        if order is None or order.key_origin != self._origin:
            raise Refused(
                "bind.key_origin",
                f"order {device.order} is not one of {self._origin} devices",
                hint="`birthmark order show` tells its key origin: provision, bind or adopt accordingly.",
                device_serial=self._serial,
                order=device.order,
            )
        return order

    def _shown(self, probe: Probe) -> bytes:
        if probe.certificate is None:
            raise DeviceFault(
                "bind.certificate.none",
                f"device {self._serial} shows no certificate",
                hint="Its identity should have been in it before it came here. " + _TAKE_OFF,
                device_serial=self._serial,
            )
        return probe.certificate

    def _lookup(
        self, device: DeviceRecord, order: OrderRecord, probe: Probe, certificate: bytes
    ) -> PreloadRecord | None:
        """Return the preloaded identity that the device shows; None for one that is to be adopted."""
        if (ended := not_available(device)) is not None:
            raise ended
        parts = open_parts(certificate)
        parsed = parse_certificate(parts)
        known = self._records.preloaded(sha256(parts.spki).digest())
        self._check_identity(probe, known)
        if self._origin == "adopted":
            check_foreign(certificate, known, device_serial=self._serial, now=self._post.clock())
            known = None
        else:
            known = self._require_preloaded(known, certificate)
        algorithm = algorithm_of(parsed.public_key()).name
        if algorithm != order.key_algorithm:
            raise Refused(
                "bind.algorithm",
                f"device {self._serial} has a key of kind {algorithm}, its order wants {order.key_algorithm}",
                hint="Order it as a product of that kind, or take the right part.",
                device_serial=self._serial,
                key_algorithm=algorithm,
            )
        require_residency(self._request.residency, probe, device_serial=self._serial, target=self._request.target)
        return known

    def _require_preloaded(self, known: PreloadRecord | None, certificate: bytes) -> PreloadRecord:
        if known is None:
            raise DeviceFault(
                "bind.certificate.unknown",
                f"the identity in device {self._serial} is in no manifest that was taken in",
                hint="Take in the vendor's manifest with `birthmark preload ingest` first. " + _TAKE_OFF,
                device_serial=self._serial,
                cert_sha256=sha256(certificate).hexdigest(),
            )
        if known.device_serial is not None:
            raise Tampered(
                "bind.clone",
                f"the identity in device {self._serial} was bound before, to {known.device_serial}",
                hint="Stop: one chip has one serial. This is a copy, or a unit that was given a second serial.",
                device_serial=self._serial,
                bound_to=known.device_serial,
                unique_id=known.unique_id,
                vendor=known.vendor,
            )
        if known.cert_sha256 != sha256(certificate).digest():
            raise DeviceFault(
                "bind.certificate.other",
                f"device {self._serial} shows another certificate for the key of {known.unique_id} than its vendor",
                hint=_TAKE_OFF,
                device_serial=self._serial,
                unique_id=known.unique_id,
            )
        return known

    def _check_identity(self, probe: Probe, known: PreloadRecord | None) -> None:
        """The device is the one that was scanned: it calls itself by its serial, its vendor's id, or what was given."""
        names = {self._serial.casefold(), (self._request.identity or self._serial).casefold()}
        if known is not None:
            names.add(known.unique_id.casefold())
        if probe.identity.casefold() not in names:
            raise DeviceFault(
                "device.identity.mismatch",
                f"this is device {probe.identity[:80]!a}, not {self._serial}",
                hint="Put the right device into the fixture; if it has a name of its own, give that with --identity.",
                device_serial=self._serial,
                found=ascii(probe.identity[:80]),
            )

    def _prove(self, certificate: bytes, known: PreloadRecord | None, probe: Probe) -> tuple[Proof, Attestation | None]:
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
        self._step("verify", lambda: self._verify(evidence, certificate, known, challenge))
        attestation = None
        if probe.attests:
            spki = spki_of(x509.load_der_x509_certificate(certificate).public_key())
            asked = self._post.entropy(NONCE_OCTETS)
            attestation = self._step(
                "attest", lambda: attested(self._target, asked, spki=spki, device_serial=self._serial)
            )
        return Proof(nonce, challenge, evidence, None), attestation

    def _verify(self, evidence: Evidence, certificate: bytes, known: PreloadRecord | None, challenge: bytes) -> None:
        if evidence.kind != "signature":
            raise Refused(
                "bind.evidence",
                f"device {self._serial} signs no challenge, so it cannot show that the identity is its own",
                hint="A certificate is public: without a signature anybody can show it. Use a target that signs.",
                device_serial=self._serial,
            )
        if known is not None:
            check_evidence(
                evidence,
                device_serial=self._serial,
                certificate=certificate,
                chain=self._post.chain_of(known.ca),
                challenge=challenge,
                private_key=None,
                now=self._post.clock(),
            )
            return
        key = x509.load_der_x509_certificate(certificate).public_key()
        signature = evidence.signature
        if evidence.certificate != certificate or signature is None or not evidence_holds(key, challenge, signature):
            raise DeviceFault(
                "device.key.differs",
                f"device {self._serial} could not show that it holds the key of its certificate",
                hint=_TAKE_OFF,
                device_serial=self._serial,
                evidence=evidence.kind,
            )

    def _receipt(self, certificate: bytes, proof: Proof, attestation: Attestation | None) -> bytes:
        return make_receipt(
            self._post,
            proof,
            attempt=self._attempt,
            device_serial=self._serial,
            target=self._request.target,
            certificate=certificate,
            key_origin=self._origin,
            started=self._started,
            steps=self._steps,
            attestation=attestation,
        )

    def _record(self, device: DeviceRecord, certificate: bytes, known: PreloadRecord | None, receipt: bytes) -> None:
        at = utc_text(self._post.clock())
        held = {"at": at, "device": self._serial, "station": self._post.name, "attempt": self._attempt}
        digest = sha256(certificate).digest()
        requested = Requested(
            at=at,
            order=device.order,
            count=1,
            source=ADOPTED if known is None else f"{PRELOAD}{known.vendor}",
            device=self._serial,
            attempt=self._attempt,
        )
        with self._fence.deciding(), self._post.ledger.transaction() as tx:
            intent = tx.append(requested, sha256(open_parts(certificate).spki).digest() + digest)
            tx.append(Received(at=at, device=self._serial, intent=intent), certificate)
            tx.append(Installed(**held, target=self._request.target, cert_sha256=digest.hex()))
            tx.append(Verified(**held, evidence="signature", receipt_sha256=sha256(receipt).hexdigest()), receipt)

    def _already(self, device: DeviceRecord, certificate: bytes) -> Outcome:
        """Prove again that a verified device holds its identity. Nothing is recorded."""
        stored = stored_certificate(self._post.ledger, device)
        if stored != certificate:
            raise Tampered(
                "bind.other",
                f"device {self._serial} was bound with another identity than this one shows",
                hint="Stop: this is a unit with a second chip, or a second unit with its serial.",
                device_serial=self._serial,
                bound=sha256(stored).hexdigest(),
                found=sha256(certificate).hexdigest(),
            )
        known = self._records.preloaded_of(self._serial) if self._origin == "preloaded" else None
        self._attempt = device.attempt or self._attempt
        proof, _ = self._prove(certificate, known, Probe(self._serial, certificate, makes_key=False, can_sign=True))
        return self._outcome("already", certificate, proof, None)

    def _outcome(
        self, outcome: Literal["pass", "already"], certificate: bytes, proof: Proof, receipt: bytes | None
    ) -> Outcome:
        device = known_device(self._records, self._serial)
        intent = None if device.intent is None else self._records.intent(device.intent)
        cert_serial = b"" if intent is None else cert_serial_of(self._post.ledger, intent, device)
        return Outcome(
            device_serial=self._serial,
            attempt=self._attempt,
            outcome=outcome,
            steps=tuple(self._steps),
            ms=round((self._post.monotonic() - self._began) * 1000, 3),
            cert_serial=cert_serial.hex(),
            cert_sha256=sha256(certificate).hexdigest(),
            evidence=proof.evidence.kind,
            handshake=None,
            receipt=receipt,
        )

    def _reject(self, fault: BirthmarkError) -> NoReturn:
        """Put the refusal on record, and tell it."""
        Verdicts(self._post, self._fence, device_serial=self._serial, target=self._request.target).rejected(
            self._attempt, fault.code
        )
        raise fault

    def _step(self, name: str, call: Callable[[], _T]) -> _T:
        begun = self._post.monotonic()
        self._progress(Progress(self._attempt, self._serial, name, "start"))
        try:
            result = call()
            if name != "record":
                # What comes too late is not believed; what is on record is.
                self._fence.hold()
        except BirthmarkError as problem:
            ms = round((self._post.monotonic() - begun) * 1000, 3)
            self._progress(Progress(self._attempt, self._serial, name, "failed", ms, problem.code))
            raise
        ms = round((self._post.monotonic() - begun) * 1000, 3)
        self._steps.append((name, ms))
        self._progress(Progress(self._attempt, self._serial, name, "ok", ms))
        return result
