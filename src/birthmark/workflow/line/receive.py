"""Take in what the authority issued for a device of this site: check it, keep it, only then hand it on.

The site's own ledger answers first: an attempt that was answered before never asks again. What comes is recorded in
one transaction: request, certificate, and for a key that came with it the sealed key and its draw.

Power cut before that transaction: nothing is here, and the same attempt gets the same answer from the authority once
more. After it: everything is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

from birthmark.errors import BirthmarkError, Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Drawn, Received, Requested, utc_text
from birthmark.model.records import DeviceRecord, IntentRecord, OrderRecord
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.pki.csr import Csr
from birthmark.pki.lint import lint_certificate, unallowed
from birthmark.pki.profile import Profile
from birthmark.ports import Authority, Clock, Credential, CredentialRequest, Ledger, Records, SealedChunk
from birthmark.wire.service import CredentialAnswer, CredentialAsked
from birthmark.wire.vault import VaultKey, open_slot, slot_octets
from birthmark.workflow.handout import ChainOf, check_ids, known_device, recording_refusals, stored_certificate
from birthmark.workflow.line.draw import PoolSource
from birthmark.workflow.line.issuing import accepted_csr, require_open, reservation_of
from birthmark.workflow.line.readback import checked_path

__all__ = ["ReceivingSource"]

_SOURCE = "online"


class ReceivingSource:
    """Implements ``ports.Source`` at a site whose authority is asked online.

    Refusals, all on record: those of the authority, of ``reservation_of`` and ``require_open``, and of ``PoolSource``
    once a key is here. ``Tampered("received.*")``: what came is not what was asked for; nothing is recorded.
    """

    def __init__(
        self,
        *,
        authority: Authority,
        ledger: Ledger,
        records: Records,
        vault_key: Callable[[], VaultKey],
        chain_of: ChainOf,
        profile: Callable[[str], Profile],
        values: Callable[[str], Mapping[str, str]],
        clock: Clock,
    ) -> None:
        self._authority = authority
        self._ledger = ledger
        self._records = records
        self._vault_key = vault_key
        self._chain_of = chain_of
        self._profile = profile
        self._values = values
        self._clock = clock

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the credential of the device, from here if it is here, else from the authority."""
        check_ids(request)
        if request.csr is None:
            return self._drawn(request)
        with recording_refusals(self._ledger, request, clock=self._clock):
            device, order = self._find(request)
            csr = accepted_csr(request)
            intent = reservation_of(self._records, request, csr)
            if intent is None:
                require_open(device)
                self._ask(request, order, csr)
                intent = reservation_of(self._records, request, csr)
        return self._on_record(request, order, intent)

    def _drawn(self, request: CredentialRequest) -> Credential:
        """Draw from the site's own pool of one: what the authority sent is put there first."""
        with recording_refusals(self._ledger, request, clock=self._clock):
            device, order = self._find(request)
            if device.state is DeviceState.ORDERED and self._records.attempt(request.attempt) is None:
                self._ask(request, order, None)
        pool = PoolSource(
            ledger=self._ledger,
            records=self._records,
            vault_key=self._vault_key(),
            chain_of=self._chain_of,
            clock=self._clock,
        )
        return pool.obtain(request)

    def _find(self, request: CredentialRequest) -> tuple[DeviceRecord, OrderRecord]:
        device = known_device(self._records, request.device_serial)
        order = self._records.order(device.order)
        if order is None or (order.key_origin == "device") != (request.csr is not None):
            raise Refused(
                "receive.key_origin",
                f"order {device.order} has its keys elsewhere than this request",
                hint="Use a target that fits the order; `birthmark order show` tells its key origin.",
                device_serial=device.device_serial,
                order=device.order,
            )
        return device, order

    def _ask(self, request: CredentialRequest, order: OrderRecord, csr: Csr | None) -> None:
        asked = CredentialAsked(attempt=request.attempt, device_serial=request.device_serial, csr=request.csr)
        answer = self._authority.credential(asked)
        spki = self._check(request, order, answer, csr)
        if csr is None:
            self._check_key(order, answer, spki)
        try:
            self._keep(request, order, answer, spki)
        except Refused:
            # The same attempt may run twice at once; whoever comes second takes part in the first.
            if self._records.attempt(request.attempt) is None:
                raise

    def _check(
        self, request: CredentialRequest, order: OrderRecord, answer: CredentialAnswer, csr: Csr | None
    ) -> bytes:
        """Return the key (SPKI, DER) of the certificate that came, which is the one that was asked for."""
        if (answer.attempt, answer.device_serial) != (request.attempt, request.device_serial):
            raise _wrong("received.other", request, "it is the answer to another request")
        if (answer.order.order, answer.order.key_algorithm) != (order.order, order.key_algorithm):
            raise _wrong("received.order", request, "it is of another order than the one that was opened here")
        chain = self._chain_of(order.ca)
        path = checked_path(answer.certificate, chain, self._clock())
        spki, algorithm = _key_of(path[0], request)
        if algorithm != order.key_algorithm or (csr is not None and csr.spki != spki):
            raise _wrong("received.key", request, "its certificate is for another key")
        profile = self._profile(order.profile)
        findings = lint_certificate(
            answer.certificate,
            issuer_der=chain[0],
            profile=profile,
            device_serial=request.device_serial,
            values=self._values(order.product),
        )
        if left := unallowed(findings, profile):
            raise _wrong("received.profile", request, f"its certificate is not of the profile: {left[0].code}")
        return spki

    def _check_key(self, order: OrderRecord, answer: CredentialAnswer, spki: bytes) -> None:
        """Open what came sealed before it counts as drawn: afterwards nobody could get it again."""
        sealed = answer.sealed
        if sealed is None or len(sealed.slot) != slot_octets(order.key_algorithm):
            raise Tampered(
                "received.sealed",
                f"no private key of {answer.device_serial} came with its certificate",
                hint="Stop; tell the authority the attempt id.",
                device_serial=answer.device_serial,
            )
        key = open_slot(self._vault_key(), sealed.encapsulated, sealed.slot, 0, sha256(spki).digest())
        if spki_of(load_der_private_key(key.reveal(), None).public_key()) != spki:
            raise Tampered(
                "received.sealed",
                f"the private key that came is not the one of the certificate of {answer.device_serial}",
                hint="Stop; tell the authority the attempt id.",
                device_serial=answer.device_serial,
            )

    def _keep(self, request: CredentialRequest, order: OrderRecord, answer: CredentialAnswer, spki: bytes) -> None:
        at = utc_text(self._clock())
        digest = bytes(32) if request.csr is None else sha256(request.csr).digest()
        requested = Requested(
            at=at,
            order=order.order,
            count=1,
            source=_SOURCE,
            device=request.device_serial,
            # A key that came is drawn with the attempt; an attempt id is used once.
            attempt=None if request.csr is None else request.attempt,
        )
        with self._ledger.transaction() as tx:
            intent = tx.append(requested, sha256(spki).digest() + digest)
            tx.append(Received(at=at, device=request.device_serial, intent=intent), answer.certificate)
            if answer.sealed is not None and request.csr is None:
                sealed = answer.sealed
                tx.vault.put(intent, SealedChunk(sealed.encapsulated, len(sealed.slot), sealed.slot))
                drawn = Drawn(at=at, device=request.device_serial, station=request.station, attempt=request.attempt)
                tx.append(drawn)

    def _on_record(self, request: CredentialRequest, order: OrderRecord, intent: IntentRecord | None) -> Credential:
        device = known_device(self._records, request.device_serial)
        if intent is None or device.intent != intent.intent or device.issued_seq is None:
            raise Refused(
                "attempt.superseded",
                f"what attempt {request.attempt} received was given up meanwhile",
                hint="Start a new attempt.",
                attempt=request.attempt,
                device_serial=request.device_serial,
            )
        return Credential(
            device_serial=request.device_serial,
            certificate=stored_certificate(self._ledger, device),
            chain=self._chain_of(order.ca),
            private_key=None,
            intent=intent.intent,
            issued_seq=device.issued_seq,
        )


def _key_of(certificate: x509.Certificate, request: CredentialRequest) -> tuple[bytes, str]:
    try:
        public_key = certificate.public_key()
        return spki_of(public_key), algorithm_of(public_key).name
    except (ValueError, UnsupportedAlgorithm, BirthmarkError):
        raise _wrong("received.key", request, "the key in its certificate cannot be read") from None


def _wrong(code: str, request: CredentialRequest, reason: str) -> Tampered:
    return Tampered(
        code,
        f"the authority answered for {request.device_serial}, but {reason}",
        hint="Stop; compare the settings of this site with those of the authority.",
        device_serial=request.device_serial,
        attempt=request.attempt,
    )
