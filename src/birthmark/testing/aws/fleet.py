"""Fleet provisioning over MQTT: a certificate for a request, then a thing from a template with what it may do.

Source: AWS IoT developer guide, "Device provisioning MQTT API". The names of error codes are our reading.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from moto.core.exceptions import JsonRESTError

from birthmark.testing.aws.certificates import add_certificate, key_pair
from birthmark.testing.aws.refusal import Refusal, invalid, not_found
from birthmark.testing.aws.register import carry_out
from birthmark.testing.aws.registry import Certificate, Registry
from birthmark.testing.aws.templates import fill

__all__ = ["Fleet"]

_TOKEN_S = 3600.0
_TOKENS = 10_000
_STATUS = {"ResourceNotFoundException": 404, "ConflictingResourceUpdateException": 409}
_CODES = {
    "InvalidRequestException": "InvalidParameters",
    "ResourceNotFoundException": "ResourceNotFound",
    "ConflictingResourceUpdateException": "Conflict",
}


@dataclass(frozen=True, slots=True)
class _Owned:
    certificate: Certificate
    until: float


class Fleet:
    """``monotonic``: seconds; a token of ownership lives an hour, and what was not claimed by then is deleted."""

    def __init__(self, registry: Callable[[], Registry], lock: RLock, monotonic: Callable[[], float]) -> None:
        self._registry, self._lock, self._clock = registry, lock, monotonic
        self._tokens: OrderedDict[str, _Owned] = OrderedDict()

    def answer(self, topic: str, payload: bytes) -> tuple[str, bytes] | None:
        """Return topic and payload of the answer to a request, or None for a topic that is none."""
        *place, form = topic.split("/")
        if form not in ("json", "cbor"):
            return None
        work: Callable[[dict[str, Any]], dict[str, Any]]
        match place:
            case ["$aws", "certificates", "create-from-csr"]:
                work = self._from_csr
            case ["$aws", "certificates", "create"]:
                work = self._create
            case ["$aws", "provisioning-templates", name, "provision"]:

                def work(asked: dict[str, Any]) -> dict[str, Any]:
                    return self._provision(name, asked)
            case _:
                return None
        try:
            with self._lock:
                self._forget()
                return f"{topic}/accepted", _encode(form, work(_decode(form, payload)))
        except Refusal as refusal:
            return f"{topic}/rejected", _encode(form, _rejected(refusal.code, refusal.message))
        except JsonRESTError as refusal:
            return f"{topic}/rejected", _encode(form, _rejected(refusal.error_type, refusal.message))

    def _forget(self) -> None:
        """Delete certificates whose token ran out."""
        while self._tokens:
            token, owned = next(iter(self._tokens.items()))
            if owned.until > self._clock() and len(self._tokens) <= _TOKENS:
                return
            del self._tokens[token]
            if owned.certificate.status == "PENDING_ACTIVATION":
                self._registry().certificates.pop(owned.certificate.certificate_id, None)

    def _own(self, pem: str) -> dict[str, Any]:
        made = add_certificate(self._registry(), pem, "PENDING_ACTIVATION", None, "DEFAULT")
        token = os.urandom(48).hex()
        self._tokens[token] = _Owned(made, self._clock() + _TOKEN_S)
        return {"certificateId": made.certificate_id, "certificatePem": pem, "certificateOwnershipToken": token}

    def _from_csr(self, asked: dict[str, Any]) -> dict[str, Any]:
        csr = asked.get("certificateSigningRequest")
        if not isinstance(csr, str) or len(csr) > 4096:
            raise Refusal("InvalidCertificateSigningRequest", "The certificateSigningRequest is missing or too long.")
        try:
            pem = self._registry().amazon.sign(csr)
        except Refusal as refusal:
            raise Refusal("InvalidCertificateSigningRequest", refusal.message) from None
        return self._own(pem)

    def _create(self, _asked: dict[str, Any]) -> dict[str, Any]:
        key = rsa.generate_private_key(65537, 2048)
        return {**self._own(self._registry().amazon.issue(key.public_key())), "privateKey": key_pair(key)["PrivateKey"]}

    def _provision(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        registry, parameters = self._registry(), asked.get("parameters") or {}
        template = registry.templates.get(name)
        if template is None or template.kind != "FLEET_PROVISIONING" or not template.enabled:
            raise not_found(f"The provisioning template {name}")
        if not isinstance(parameters, dict):
            raise invalid("parameters is not an object.")
        owned = self._tokens.get(str(asked.get("certificateOwnershipToken")))
        if owned is None:
            raise Refusal("InvalidCertificateOwnershipToken", "The certificateOwnershipToken is not valid.")
        given = {**parameters, "AWS::IoT::Certificate::Id": owned.certificate.certificate_id}
        plan = fill(template.body, given)
        carry_out(registry, plan, owned.certificate)
        del self._tokens[str(asked["certificateOwnershipToken"])]
        thing = str(plan.thing.properties["ThingName"]) if plan.thing is not None else None
        return {"deviceConfiguration": dict(plan.configuration), **({"thingName": thing} if thing else {})}


def _rejected(code: str, message: str) -> dict[str, Any]:
    return {"statusCode": _STATUS.get(code, 400), "errorCode": _CODES.get(code, code), "errorMessage": message}


def _decode(form: str, payload: bytes) -> dict[str, Any]:
    try:
        if form == "cbor":
            import cbor2

            found = cbor2.loads(payload) if payload else {}
        else:
            found = json.loads(payload) if payload else {}
    except Exception:  # noqa: BLE001  two decoders, and cbor2 raises what the octets make it raise
        raise invalid("The payload cannot be read.") from None
    if not isinstance(found, dict):
        raise invalid("The payload is not an object.")
    return found


def _encode(form: str, members: Mapping[str, Any]) -> bytes:
    if form == "json":
        return json.dumps(members).encode()
    import cbor2

    return cbor2.dumps(dict(members))
