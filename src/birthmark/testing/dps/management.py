"""The resource provider (Microsoft.Devices): CA certificates of the service, its keys, its description.

Paths and shapes: Azure REST API specifications, ``deviceprovisioningservices/resource-manager``. The emulator is one
service and answers for whatever subscription, resource group and service name it is asked: all names mean it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from birthmark.errors import BirthmarkError
from birthmark.pki.chain import verify_chain
from birthmark.testing.dps.answers import Answer, Problem, json_object
from birthmark.testing.dps.certs import common_name, read_certificate, thumbprint_sha1
from birthmark.testing.dps.enrollments import valid_id
from birthmark.testing.dps.http import Request
from birthmark.testing.dps.store import CaRecord, Store

__all__ = ["ManagementApi", "ServiceFacts"]

_PROVIDER = "Microsoft.Devices"
_TYPE = f"{_PROVIDER}/provisioningServices"
_RIGHTS = "ServiceConfig, DeviceConnect, EnrollmentRead, EnrollmentWrite"


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What the resource says of itself. ``address`` returns host and port, once they are known."""

    id_scope: str
    policy: str
    key: str
    hubs: tuple[str, ...]
    address: Callable[[], str]


class ManagementApi:
    """``/subscriptions/…/providers/Microsoft.Devices/provisioningServices/{service}`` and what hangs below it."""

    def __init__(self, store: Store, facts: ServiceFacts) -> None:
        self._store, self._facts = store, facts

    def answer(self, request: Request) -> Answer:
        """Answer one request that was let in; refusals have the shape of the resource provider."""
        try:
            return self._answer(request)
        except Problem as problem:
            return _refusal(problem)

    def _answer(self, request: Request) -> Answer:
        match request.method, [part if part != _PROVIDER.lower() else _PROVIDER for part in request.path]:
            case "POST", ["subscriptions", _, "providers", "Microsoft.Devices", check] if check.lower() == _CHECK:
                return _availability(json_object(request.body))
            case "GET", ["subscriptions", _, "providers", "Microsoft.Devices", "provisioningServices"]:
                return Answer(200, {"value": [self._listed(request.path[1], "emulated")]})
            case "GET", [
                "subscriptions",
                subscription,
                _,
                group,
                "providers",
                "Microsoft.Devices",
                "provisioningServices",
            ]:
                return Answer(200, {"value": [self._listed(subscription, group)]})
            case method, ["subscriptions", subscription, kind, group, "providers", "Microsoft.Devices", *rest] if (
                kind.lower() == "resourcegroups" and rest[:1] == ["provisioningServices"] and len(rest) > 1
            ):
                base = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{_TYPE}/{rest[1]}"
                if rest[2:3] == ["certificates"]:
                    return self._certificates(method, rest[3:], f"{base}/certificates", request)
                return self._service(method, rest[2:], base, subscription, group)
        raise Problem(404001, "Resource not found.")

    def _service(self, method: str, rest: list[str], base: str, subscription: str, group: str) -> Answer:
        facts = self._facts
        key = {"keyName": facts.policy, "primaryKey": facts.key, "secondaryKey": facts.key, "rights": _RIGHTS}
        match method, rest:
            case "GET", []:
                return Answer(200, self._described(base, subscription, group))
            case "POST", ["listkeys"]:
                return Answer(200, {"value": [key]})
            case "POST", ["keys", name, "listkeys"]:
                if name != facts.policy:
                    raise Problem(404001, "Resource not found.")
                return Answer(200, key)
        raise Problem(405001, "Method not allowed.")

    def _listed(self, subscription: str, group: str) -> dict[str, Any]:
        base = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{_TYPE}/dps"
        return self._described(base, subscription, group)

    def _described(self, base: str, subscription: str, group: str) -> dict[str, Any]:
        facts = self._facts
        return {
            "id": base,
            "name": base.rpartition("/")[2],
            "type": _TYPE,
            "location": "local",
            "tags": {},
            "etag": "AAAAAAAAAAE=",
            "resourcegroup": group,
            "subscriptionid": subscription,
            "properties": {
                "state": "Active",
                "provisioningState": "Succeeded",
                "iotHubs": [{"connectionString": "", "location": "local", "name": hub} for hub in facts.hubs],
                "allocationPolicy": "Hashed",
                "serviceOperationsHostName": facts.address(),
                "deviceProvisioningHostName": facts.address().rpartition(":")[0],
                "idScope": facts.id_scope,
                "authorizationPolicies": [{"keyName": facts.policy, "rights": _RIGHTS}],
            },
            "sku": {"name": "S1", "tier": "Standard", "capacity": 1},
        }

    def _certificates(self, method: str, rest: list[str], base: str, request: Request) -> Answer:
        rows, match = self._store.certificates, request.headers.get("if-match")
        match method, rest:
            case "GET", []:
                return Answer(200, {"value": [_shown(row, base) for row in rows.all()]})
            case "PUT", [name]:
                return self._put(name, request, base)
            case "GET", [name]:
                return Answer(200, _shown(rows.need(name), base))
            case "DELETE", [name]:
                rows.need(name)
                rows.expect(name, match or "")
                rows.delete(name)
                return Answer(200)
            case "POST", [name, "generateVerificationCode"]:
                row = rows.need(name)
                rows.expect(name, match or "")
                row.code = os.urandom(24).hex().upper()
                row.verified = False
                row.touch()
                return Answer(200, _shown(row, base, {"verificationCode": row.code}))
            case "POST", [name, "verify"]:
                row = rows.need(name)
                rows.expect(name, match or "")
                _prove(row, read_certificate(json_object(request.body).get("certificate")))
                return Answer(200, _shown(row, base))
        raise Problem(405001, "Method not allowed.")

    def _put(self, name: str, request: Request, base: str) -> Answer:
        document = json_object(request.body)
        properties = document.get("properties", document)
        if not isinstance(properties, dict) or not valid_id(name):
            raise Problem(400002, "The certificate's name or properties are not valid.")
        rows, match = self._store.certificates, request.headers.get("if-match")
        if rows.get(name) is not None and match is None:
            raise Problem(409201, "The certificate exists; say If-Match to replace it.")
        rows.expect(name, match)
        row = CaRecord(name, read_certificate(properties.get("certificate")), properties.get("isVerified") is True)
        rows.put(name, row)
        return Answer(200, _shown(row, base))


_CHECK = "checkprovisioningservicenameavailability"


def _availability(document: dict[str, Any]) -> Answer:
    name = document.get("name")
    if isinstance(name, str) and 3 <= len(name) <= 64 and name.replace("-", "").isalnum():
        return Answer(200, {"nameAvailable": True})
    return Answer(200, {"nameAvailable": False, "reason": "Invalid", "message": "The name is not valid."})


def _refusal(problem: Problem) -> Answer:
    """Return ``ErrorDetails``: what the data plane calls errorCode is ``code`` here (both members are sent)."""
    answer = problem.answer()
    body = {**answer.body, "code": problem.code, "httpStatusCode": str(answer.status), "details": problem.message}
    return Answer(answer.status, body, answer.headers)


def _prove(row: CaRecord, proof: bytes) -> None:
    try:
        held = len(verify_chain(proof, [], [row.certificate], at=datetime.now(UTC))) == 2
    except BirthmarkError:
        held = False
    if row.code is None or common_name(proof) != row.code or not held:
        raise Problem(400013, "The verification certificate does not prove possession.")
    row.verified, row.code = True, None
    row.touch()


def _shown(row: CaRecord, base: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    certificate = x509.load_der_x509_certificate(row.certificate)
    properties = {
        "subject": certificate.subject.rfc4514_string(),
        "expiry": _rfc7231(certificate.not_valid_after_utc),
        "thumbprint": thumbprint_sha1(row.certificate),
        "isVerified": row.verified,
        "created": _rfc7231(row.created),
        "updated": _rfc7231(row.updated),
        **(more or {}),
    }
    return {"id": f"{base}/{row.name}", "name": row.name, "type": f"{_TYPE}/Certificates", "etag": row.etag,
            "properties": properties}  # fmt: skip


def _rfc7231(moment: datetime) -> str:
    return moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
