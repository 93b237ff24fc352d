"""Calls to the emulated Device Provisioning Service, and its service side as a test drives it."""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.testing.dps import EmulatedDps

__all__ = ["ARM", "dps_call", "signer", "verify_ca", "x509_enrolment"]

ARM = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Devices/provisioningServices/dps1"


def dps_call(
    dps: EmulatedDps, method: str, path: str, body: Any = None, device: Path | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Make one call; return status, JSON body and headers (lower case).

    ``device``: directory with ``chain.pem`` and ``key.pem`` of the device that calls; without one it is the service,
    with its own token.
    """
    trust = ssl.create_default_context(cadata=dps.root_pem)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if device is not None:
        trust.load_cert_chain(device / "chain.pem", device / "key.pem")
    else:
        token = f"Bearer {dps.management_token}" if path.startswith(("/subs", "/_em")) else dps.sas_token()
        sent = {"Authorization": token} | sent
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


def signer(ca: x509.Certificate, key: Any) -> Callable[[str], bytes]:
    """Return what proves possession of the CA's key: code → certificate (DER) with the code as its name."""

    def prove(code: str) -> bytes:
        now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, code)])
        own = ec.generate_private_key(ec.SECP256R1()).public_key()
        builder = x509.CertificateBuilder(ca.subject, name, own, x509.random_serial_number())
        window = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        return window.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    return prove


def verify_ca(dps: EmulatedDps, ca: x509.Certificate, prove: Callable[[str], bytes]) -> str:
    """Have a CA verified by the service as a person does it in the portal; return the name it has there."""
    name = f"by-hand-{ca.fingerprint(hashes.SHA256()).hex()[:16]}"
    path = f"{ARM}/certificates/{name}"
    der = b64encode(ca.public_bytes(Encoding.DER)).decode()
    status, made, _ = dps_call(dps, "PUT", path, {"properties": {"certificate": der}})
    if status == 409:
        return name  # verified before, by a test that shares this service
    assert (status, made["properties"]["isVerified"]) == (200, False)
    asked = dps_call(dps, "POST", f"{path}/generateVerificationCode", If_Match=made["etag"])[1]
    proof = b64encode(prove(asked["properties"]["verificationCode"])).decode()
    proven = dps_call(dps, "POST", f"{path}/verify", {"certificate": proof}, If_Match=asked["etag"])[1]
    assert proven["properties"]["isVerified"] is True
    return name
