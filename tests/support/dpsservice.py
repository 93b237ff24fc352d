"""The service side of the emulated Device Provisioning Service, as a test drives it."""

from __future__ import annotations

import json
import ssl
from http.client import HTTPSConnection
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.testing.dps import EmulatedDps

__all__ = ["dps_call", "x509_enrolment"]


def dps_call(
    dps: EmulatedDps, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Return status, JSON body and headers of one call with the service's own token."""
    trust = ssl.create_default_context(cadata=dps.root_pem)
    sent = {"Authorization": dps.sas_token(), **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection = HTTPSConnection(dps.host, dps.https_port, context=trust, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None, {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def x509_enrolment(kind: str, one: x509.Certificate, **more: Any) -> dict[str, Any]:
    """Return the body of an enrolment or a group by one certificate."""
    pem = one.public_bytes(Encoding.PEM).decode()
    return {"attestation": {"type": "x509", "x509": {kind: {"primary": {"certificate": pem}}}}, **more}
