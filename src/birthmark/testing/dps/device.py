"""The device API without a transport: register, poll, look up. HTTPS and MQTT are two skins of it."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from birthmark.testing.dps.answers import Answer, Problem, json_object, utc_now
from birthmark.testing.dps.attestation import find_enrollment
from birthmark.testing.dps.certs import certificate_info, thumbprint_sha1
from birthmark.testing.dps.enrollments import Enrollment
from birthmark.testing.dps.hub import HubRegistry
from birthmark.testing.dps.issuance import DeviceRegistry
from birthmark.testing.dps.limits import Gate
from birthmark.testing.dps.store import Operation, Registration, Store
from birthmark.testing.dps.symmetric import device_keys, find_by_token

__all__ = ["DeviceApi", "Shown", "registration_document", "registration_state"]

_API_VERSIONS = ("2018-11-01", "2019-01-15", "2019-03-31", "2021-06-01", "2021-10-01")
_ISSUING_VERSIONS = ("2025-07-01-preview", "2026-11-01")


@dataclass(frozen=True, slots=True)
class Shown:
    """How a device shows who it is: ``chain`` of its TLS certificate (DER, its own first), or a SAS ``token``."""

    chain: Sequence[bytes]
    token: str = ""

    @property
    def leaf(self) -> bytes:
        """Return the device's certificate, empty without one."""
        return self.chain[0] if self.chain else b""


class DeviceApi:
    """``assigning_s``: how long a registration takes; 0 assigns in the first answer."""

    def __init__(
        self,
        store: Store,
        gate: Gate,
        id_scope: str,
        assigning_s: float,
        monotonic: Callable[[], float],
        registry: DeviceRegistry,
    ) -> None:
        self._store, self._gate, self._scope = store, gate, id_scope
        self._assigning_s, self._clock, self._registry = assigning_s, monotonic, registry

    def check(self, id_scope: str, api_version: str | None) -> None:
        """Refuse a foreign scope and an unknown version of the API."""
        if api_version not in (*_API_VERSIONS, *_ISSUING_VERSIONS):
            raise Problem(400008, "The api-version is not supported.")
        if id_scope != self._scope:
            raise Problem(401002, "Unauthorized")

    def register(self, registration_id: str, shown: Shown, body: bytes, api_version: str) -> Answer:
        """Begin or do a registration: 202 ``assigning`` or 200 with the state."""
        self._gate.registration()
        document = json_object(body)
        if "tpm" in document:
            raise Problem(401000, "The TPM challenge is not part of this emulator.")
        if "csr" in document and api_version not in _ISSUING_VERSIONS:
            raise Problem(400009, "Certificate issuance is not part of this api-version.")
        if str(document.get("registrationId", registration_id)).lower() != registration_id.lower():
            raise Problem(400002, "The registrationId is not that of the path.")
        enrollment = self._admit(registration_id, shown)
        if not enrollment.enabled:
            return Answer(200, self._disabled(registration_id))
        csr = document.get("csr")
        issued = () if csr is None else self._registry.issue(enrollment, registration_id, csr)
        self._assign(enrollment, registration_id, shown.leaf, document.get("payload"))
        operation = Operation(_operation_id(), registration_id, self._clock() + self._assigning_s, issued)
        self._store.begin(operation)
        return self._state(operation)

    def operation(self, registration_id: str, operation_id: str, shown: Shown) -> Answer:
        """Answer a poll: 202 as long as it is under way, then 200."""
        self._gate.poll(registration_id.lower())
        enrollment = self._admit(registration_id, shown)
        operation = self._store.operations.get(operation_id)
        if operation is None or operation.registration_id.lower() != registration_id.lower():
            raise Problem(404202, "Operation not found.")
        if not enrollment.enabled:
            return Answer(200, self._disabled(registration_id))
        return self._state(operation)

    def lookup(self, registration_id: str, shown: Shown, body: bytes) -> Answer:
        """Answer the state of a registration."""
        self._gate.poll(registration_id.lower())
        if body and "csr" in json_object(body):
            raise Problem(400009, "A status lookup takes no certificate request.")
        self._admit(registration_id, shown)
        return Answer(200, registration_document(self._store.registrations.need(registration_id)))

    def _admit(self, registration_id: str, shown: Shown) -> Enrollment:
        if shown.token and not shown.chain:
            return find_by_token(self._store, self._scope, registration_id, shown.token)
        return find_enrollment(self._store, registration_id, shown.chain)

    def _state(self, operation: Operation) -> Answer:
        wait = operation.ready - self._clock()
        if wait > 0:
            path = f"/{self._scope}/registrations/{operation.registration_id}/operations/{operation.operation_id}"
            headers = {"retry-after": str(max(1, round(wait))), "location": path}
            return Answer(202, {"operationId": operation.operation_id, "status": "assigning"}, headers)
        state = registration_document(self._store.registrations.need(operation.registration_id))
        if operation.issued:
            state["issuedCertificateChain"] = [base64.b64encode(der).decode() for der in operation.issued]
        return Answer(200, {"operationId": operation.operation_id, "status": "assigned", "registrationState": state})

    def _disabled(self, registration_id: str) -> dict[str, Any]:
        state = {"registrationId": registration_id, "status": "disabled", "lastUpdatedDateTimeUtc": utc_now()}
        return {"operationId": _operation_id(), "status": "disabled", "registrationState": state}

    def _assign(self, enrollment: Enrollment, registration_id: str, leaf: bytes, payload: Any) -> None:
        old = self._store.registrations.get(registration_id)
        hub, substatus = _choose(enrollment, registration_id), "initialAssignment"
        if old is not None:
            hub = hub if enrollment.update_hub else old.hub
            moved = "deviceDataMigrated" if enrollment.migrate_data else "deviceDataReset"
            substatus = moved if hub != old.hub else "reprovisionedToInitialAssignment"
        record = Registration(
            registration_id if old is None else old.registration_id,
            str(enrollment.extra.get("deviceId") or registration_id),
            hub,
            substatus,
            leaf,
            enrollment.id if enrollment.kind == "group" else None,
            utc_now() if old is None else old.created,
            payload,
        )
        self._store.registrations.put(registration_id, record)
        self._fill(enrollment, record, None if old is None else self._store.hubs[old.hub])

    def _fill(self, enrollment: Enrollment, record: Registration, before: HubRegistry | None) -> None:
        """Make the device's identity in its hub; one that moves is taken away there, and taken along with its data."""
        hub = self._store.hubs[record.hub]
        identity = before.release(record.device_id) if before is not None and before is not hub else None
        if identity is not None and enrollment.migrate_data:
            hub.adopt(identity)
        capabilities = enrollment.extra.get("capabilities") or {}
        hub.assign(record.device_id, _credentials(enrollment, record), capabilities)


def _choose(enrollment: Enrollment, registration_id: str) -> str:
    """Return the hub; only the policy ``hashed`` spreads devices over several."""
    if enrollment.allocation != "hashed":
        return enrollment.hubs[0]
    number = int.from_bytes(sha256(registration_id.lower().encode()).digest()[:8], "big")
    return enrollment.hubs[number % len(enrollment.hubs)]


def _credentials(enrollment: Enrollment, record: Registration) -> dict[str, Any]:
    """Return what the hub knows a device by: the thumbprint of the certificate that it showed, or its keys."""
    if record.certificate:
        thumbprint = thumbprint_sha1(record.certificate)
        prints = {"primaryThumbprint": thumbprint, "secondaryThumbprint": thumbprint}
        return {"type": "selfSigned", "x509Thumbprint": prints}
    return {"type": "sas", "symmetricKey": device_keys(enrollment, record.registration_id)}


def _operation_id() -> str:
    return f"4.{uuid.uuid4().hex[:16]}.{uuid.uuid4()}"


def registration_state(row: Registration) -> dict[str, Any]:
    """Return ``DeviceRegistrationState`` of the service's API."""
    return {
        "registrationId": row.registration_id,
        "createdDateTimeUtc": row.created,
        "assignedHub": row.hub,
        "deviceId": row.device_id,
        "status": "assigned",
        "substatus": row.substatus,
        "lastUpdatedDateTimeUtc": row.updated,
        "etag": row.etag,
    }


def registration_document(row: Registration) -> dict[str, Any]:
    """Return ``DeviceRegistrationResult`` of the device's API: the state, and what the device showed."""
    kind = "x509" if row.certificate else "symmetricKey"
    told: dict[str, Any] = {"certificateInfo": certificate_info(row.certificate)} if row.certificate else {}
    if row.group is not None:
        told["enrollmentGroupId"] = row.group
    return {kind: told, **registration_state(row)}
