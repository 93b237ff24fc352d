"""``est:https://HOST/.well-known/est[/LABEL]?…``: a service that is asked by EST (RFC 7030, RFC 8951).

The client is known by its TLS certificate (RFC 7030, 3.3.2) or by user and password (3.2.3). An enrolment that is not
decided yet (202) is asked again with the same request (4.2.3).
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from birthmark.adapters.issuers.uri import parse_issuer_uri, require_web_address
from birthmark.adapters.issuers.web import WEB_OPTIONS, WebService
from birthmark.errors import Refused, Tampered
from birthmark.pki.certfile import read_certificates
from birthmark.ports import SecretsHandler, SigningRequest

__all__ = ["EstService"]


class EstService:
    """Implements ``ports.SigningService``. EST knows no idempotency keys: a repeated request may be signed again."""

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_issuer_uri(uri, scheme="est", options=WEB_OPTIONS)
        self._url = require_web_address(parsed, ("https",)).rstrip("/")
        self._name = parsed.name
        self._web = WebService(parsed, secrets=secrets, base=base)

    @property
    def name(self) -> str:
        return self._name

    def sign(self, request: SigningRequest) -> bytes:
        """Enrol (RFC 7030, 4.2.1): the answer holds the one certificate."""
        # RFC 8951, 3: base64 of DER; no line breaks are needed, and some servers choke on them.
        answer = self._web.post(
            f"{self._url}/simpleenroll",
            base64.b64encode(request.csr),
            content_type="application/pkcs10",
            accept="application/pkcs7-mime",
        )
        try:
            found = read_certificates(base64.b64decode(b"".join(answer.split()), validate=True))
        except (binascii.Error, Refused) as problem:
            raise self._strange("it is no PKCS#7 with certificates") from problem
        if len(found) != 1:
            raise self._strange(f"it holds {len(found)} certificates")
        return found[0]

    def close(self) -> None:
        self._web.close()

    def _strange(self, reason: str) -> Tampered:
        return Tampered(
            "issuer.answer.form",
            f"the service answered something else than one certificate: {reason}",
            hint="Check the address of the service; nothing of the answer was kept.",
            service=self._name,
        )
