"""What the ledger gets to know of a device at the station: verified, failed, or refused before anything was touched.

Every one of these is written under the fence: a run whose time is over, or that somebody gave up, records nothing.
Each is one transaction. Power cut before its commit: it did not happen, and the attempt stays open in the journal.
"""

from __future__ import annotations

from hashlib import sha256

from birthmark.model.device import DeviceState
from birthmark.model.events import Admitted, Failed, Installed, KeyErased, Rejected, Verified, utc_text
from birthmark.model.records import OrderRecord
from birthmark.ports import Credential
from birthmark.workflow.handout import known_device
from birthmark.workflow.line.fence import StationFence
from birthmark.workflow.line.statement import Proof
from birthmark.workflow.line.stationpost import StationPost

__all__ = ["Verdicts"]


class Verdicts:
    """Puts on record what became of one device. All raise what ``StationFence.hold`` and the ledger do."""

    def __init__(self, post: StationPost, fence: StationFence, *, device_serial: str, target: str) -> None:
        self._post = post
        self._fence = fence
        self._serial = device_serial
        self._target = target

    def verified(self, attempt: str, order: OrderRecord, credential: Credential, proof: Proof, receipt: bytes) -> None:
        """Installed, verified, and the pooled key erased; durable on return, and only then does a device pass."""
        at = utc_text(self._post.clock())
        held = {"at": at, "device": self._serial, "station": self._post.name, "attempt": attempt}
        device = known_device(self._post.records, self._serial)
        with self._fence.deciding(), self._post.ledger.transaction() as tx:
            if device.state is not DeviceState.INSTALLED:
                cert_sha256 = sha256(credential.certificate).hexdigest()
                tx.append(Installed(**held, target=self._target, cert_sha256=cert_sha256))
            digest = sha256(receipt).hexdigest()
            tx.append(Verified(**held, evidence=proof.evidence.kind, receipt_sha256=digest), receipt)
            if order.key_origin == "injected" and device.position is not None:
                tx.vault.erase(credential.intent, device.position)
                tx.append(KeyErased(at=at, device=self._serial, intent=credential.intent, reason="verified"))

    def admitted(self, attempt: str, proof: Proof, receipt: bytes, service: str) -> None:
        """A verified device was let into its cloud; durable on return. Its identity stays what it is."""
        event = Admitted(
            at=utc_text(self._post.clock()),
            device=self._serial,
            station=self._post.name,
            attempt=attempt,
            evidence=proof.evidence.kind,
            service=service,
            receipt_sha256=sha256(receipt).hexdigest(),
        )
        with self._fence.deciding(), self._post.ledger.transaction() as tx:
            tx.append(event, receipt)

    def failed(self, attempt: str, code: str) -> None:
        """The identity ended at this device; it is never used again."""
        event = Failed(
            at=utc_text(self._post.clock()),
            device=self._serial,
            station=self._post.name,
            attempt=attempt,
            code=code,
        )
        with self._fence.deciding(), self._post.ledger.transaction() as tx:
            tx.append(event)

    def rejected(self, attempt: str | None, code: str) -> None:
        """Refused before any identity was touched."""
        event = Rejected(
            at=utc_text(self._post.clock()),
            station=self._post.name,
            code=code,
            device=self._serial,
            attempt=attempt,
        )
        with self._fence.deciding(), self._post.ledger.transaction() as tx:
            tx.append(event)
