"""Azure Sphere catalogs as the resource manager shows them: CA certificates, chains, proofs of possession.

Shapes: Azure REST API specifications, Microsoft.AzureSphere 2024-04-01 (Catalogs, Certificates). The form inside the
base64 of ``certificate`` (DER) and ``certificateChain`` (PKCS #7) is our reading (docs/testing-dps.md).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from birthmark.testing.dps.answers import Answer, Problem, json_object, utc_stamp
from birthmark.testing.dps.http import Request

__all__ = ["CatalogsApi", "EmulatedCatalog"]

_VERSION = "2024-04-01"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}", re.ASCII)
_KIND = "Microsoft.AzureSphere/catalogs"
_DAY = timedelta(days=1)
_MAX_NONCE = 64
"""The upper bound of a common name."""


@dataclass(slots=True)
class _Ca:
    certificate: x509.Certificate
    key: Any
    status: str = "Active"

    @property
    def serial(self) -> str:
        return f"{self.certificate.serial_number:x}"


class EmulatedCatalog:
    """A catalog with a root and CAs of its own; the keys live in this process only.

    ``root``: made if left out, with a first CA; else it has the CAs that ``add`` gives it.
    """

    def __init__(self, name: str, root: x509.Certificate | None = None) -> None:
        self.name, self.cas = name, list[_Ca]()
        self._root_key = ec.generate_private_key(ec.SECP384R1())
        if root is not None:
            self.root = root
            return
        own, key = _named("Emulated Azure Sphere root"), self._root_key.public_key()
        self.root = _builder(own, own, key, 3650 * _DAY, 1, key).sign(self._root_key, hashes.SHA384())
        self.renew()

    def renew(self) -> x509.Certificate:
        """Make a new CA certificate with a new key and put it to use; the one before stays, inactive.

        Only for a catalog that has made its root.
        """
        for ca in self.cas:
            ca.status = "Inactive"
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named(f"Emulated Azure Sphere {self.name} {len(self.cas) + 1}")
        made = _builder(name, self.root.subject, key.public_key(), 730 * _DAY, 0, self._root_key.public_key()).sign(
            self._root_key, hashes.SHA384()
        )
        self.add(made, key)
        return made

    def add(self, certificate: x509.Certificate, key: Any, status: str = "Active") -> None:
        """Give it a CA certificate; ``status``: Active, Inactive, Expired or Revoked."""
        self.cas.append(_Ca(certificate, key, status))

    def device(self, device_id: str, public_key: Any) -> list[x509.Certificate]:
        """Return what a device gets each day: a certificate of 24 hours for its key, and the chain, root last.

        ``device_id``: 1 to 64 characters. Real ones have 128, which no common name may have (RFC 5280, appendix A.1).
        """
        ca = next(one for one in self.cas if one.status == "Active")
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        built = _builder(_named(device_id.lower()), ca.certificate.subject, public_key, _DAY, None, ca.key.public_key())
        leaf = built.add_extension(purpose, critical=False).sign(ca.key, hashes.SHA256())
        return [leaf, ca.certificate, self.root]


class CatalogsApi:
    """``/subscriptions/S/resourceGroups/G/providers/Microsoft.AzureSphere/catalogs/NAME`` and what hangs below it."""

    def __init__(self) -> None:
        self._catalogs: dict[str, EmulatedCatalog] = {}

    def add(self, catalog: EmulatedCatalog) -> EmulatedCatalog:
        """Let the manager show this catalog, in whatever subscription and group; ``ValueError`` for its name."""
        if not _NAME.fullmatch(catalog.name):
            raise ValueError("a catalog has a name of 1 to 50 of A-Z a-z 0-9 _ -")
        self._catalogs[catalog.name.lower()] = catalog
        return catalog

    def answer(self, request: Request) -> Answer:
        """Answer one request that was let in."""
        if request.query.get("api-version") != _VERSION:
            return _refusal(400, "InvalidApiVersionParameter", f"The api-version is not {_VERSION}.")
        path = request.path
        catalog = self._catalogs.get(path[7].lower()) if len(path) > 7 and path[6] == "catalogs" else None
        if catalog is None:
            return _refusal(404, "ResourceNotFound", "The catalog was not found.")
        base = "/" + "/".join(path[:8])
        match request.method, path[8:]:
            case "GET", ():
                return Answer(200, {"id": base, "name": catalog.name, "type": _KIND, "location": "global"})
            case "GET", ("certificates",):
                return Answer(200, {"value": [_shown(ca, base) for ca in catalog.cas]})
            case method, ("certificates", serial, *rest):
                ca = _find(catalog, serial)
                if ca is not None:
                    return self._one(catalog, ca, base, request, (method, *rest))
        return _refusal(404, "ResourceNotFound", "The certificate was not found.")

    def _one(self, catalog: EmulatedCatalog, ca: _Ca, base: str, request: Request, act: tuple[str, ...]) -> Answer:
        match act:
            case ("GET",):
                return Answer(200, _shown(ca, base))
            case "POST", "retrieveCertChain":
                chain = pkcs7.serialize_certificates([ca.certificate, catalog.root], Encoding.DER)
                return Answer(200, {"certificateChain": base64.b64encode(chain).decode()})
            case "POST", "retrieveProofOfPossessionNonce":
                return _proven(ca, request)
        return _refusal(404, "NotFound", "There is no such action.")


def _proven(ca: _Ca, request: Request) -> Answer:
    try:
        nonce = json_object(request.body).get("proofOfPossessionNonce")
    except Problem as problem:
        return _refusal(400, "InvalidRequestContent", problem.message)
    if not isinstance(nonce, str) or not 0 < len(nonce) <= _MAX_NONCE:
        return _refusal(400, "InvalidRequestContent", "The proofOfPossessionNonce is missing or too long.")
    if ca.status != "Active" and ca.status != "Inactive":
        return _refusal(409, "Conflict", "The certificate is not valid any more.")
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    proof = _builder(_named(nonce), ca.certificate.subject, key, _DAY, None, ca.key.public_key()).sign(
        ca.key, hashes.SHA256()
    )
    return Answer(200, _properties(proof, "Active"))


def _find(catalog: EmulatedCatalog, serial: str) -> _Ca | None:
    wanted = serial.lower()
    return next(
        (ca for ca in catalog.cas if ca.serial == wanted or (wanted == ".default" and ca.status == "Active")), None
    )


def _shown(ca: _Ca, base: str) -> dict[str, Any]:
    kind = f"{_KIND}/certificates"
    place = f"{base}/certificates/{ca.serial}"
    return {"id": place, "name": ca.serial, "type": kind, "properties": _properties(ca.certificate, ca.status)}


def _properties(certificate: x509.Certificate, status: str) -> dict[str, Any]:
    der = certificate.public_bytes(Encoding.DER)
    shown = {
        "certificate": base64.b64encode(der).decode(),
        "status": status,
        "subject": certificate.subject.rfc4514_string(),
        "thumbprint": sha1(der, usedforsecurity=False).hexdigest().upper(),
        "expiryUtc": utc_stamp(certificate.not_valid_after_utc),
        "notBeforeUtc": utc_stamp(certificate.not_valid_before_utc),
        "provisioningState": "Succeeded",
    }
    if status in ("Expired", "Revoked"):
        del shown["certificate"]
    return shown


def _refusal(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, life: timedelta, path: int | None, by: Any
) -> x509.CertificateBuilder:
    now, ca = datetime.now(UTC), path is not None
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by), critical=False)
    )
