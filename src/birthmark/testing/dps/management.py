"""The CA certificates of the service, as the resource provider shows them: upload, prove possession, list, delete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from birthmark.errors import BirthmarkError
from birthmark.pki.chain import verify_chain
from birthmark.testing.dps.answers import Answer, Problem, json_object
from birthmark.testing.dps.certs import certificate_info, common_name, read_certificate
from birthmark.testing.dps.enrollments import valid_id
from birthmark.testing.dps.http import Request
from birthmark.testing.dps.store import CaRecord, Store

__all__ = ["ManagementApi"]


class ManagementApi:
    """``…/Microsoft.Devices/provisioningServices/{service}/certificates/{name}`` and what hangs below it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def answer(self, request: Request) -> Answer:
        """Answer one request that was let in."""
        path, rows = request.path, self._store.certificates
        if (
            len(path) < 9
            or path[5] != "Microsoft.Devices"
            or path[6] != "provisioningServices"
            or path[8] != "certificates"
        ):
            raise Problem(404001, "Resource not found.")
        base, match = "/" + "/".join(path[:9]), request.headers.get("if-match")
        match request.method, path[9:]:
            case "GET", ():
                return Answer(200, {"value": [_shown(row, base) for row in rows.all()]})
            case "PUT", (name,):
                return self._put(name, request, base)
            case "GET", (name,):
                return Answer(200, _shown(rows.need(name), base))
            case "DELETE", (name,):
                rows.need(name)
                rows.expect(name, match or "")
                rows.delete(name)
                return Answer(200)
            case "POST", (name, "generateVerificationCode"):
                row = rows.need(name)
                rows.expect(name, match or "")
                row.code = os.urandom(24).hex().upper()
                row.verified = False
                row.touch()
                return Answer(200, _shown(row, base, {"verificationCode": row.code}))
            case "POST", (name, "verify"):
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
    info = certificate_info(row.certificate)
    expiry = x509.load_der_x509_certificate(row.certificate).not_valid_after_utc
    properties = {
        "subject": info["subjectName"],
        "expiry": expiry.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "thumbprint": info["sha1Thumbprint"],
        "isVerified": row.verified,
        "created": row.created,
        "updated": row.updated,
        **(more or {}),
    }
    kind = "Microsoft.Devices/provisioningServices/certificates"
    return {"id": f"{base}/{row.name}", "name": row.name, "type": kind, "etag": row.etag, "properties": properties}
