"""``cmp:http[s]://HOST/PATH?reference=…&shared-secret=…``: a CA that is asked by CMP over HTTP (RFC 9810, RFC 9811).

Requests are p10cr, protected by a MAC of a shared secret; plain HTTP is allowed, since every message is protected.
The certificate is confirmed (certConf) as soon as it is seen to hold the key that was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from birthmark.adapters.issuers.uri import parse_issuer_uri, require_web_address
from birthmark.adapters.issuers.web import WEB_OPTIONS, WebService
from birthmark.errors import Refused, Tampered
from birthmark.pki.certread import open_parts
from birthmark.pki.csr import parse_csr
from birthmark.ports import SecretsHandler, SigningRequest
from birthmark.wire.cmp import CmpAnswer, CmpSession, read_answer

__all__ = ["CmpService"]

_PKIXCMP = "application/pkixcmp"
_NEEDED = ("reference", "shared-secret")


class CmpService:
    """Implements ``ports.SigningService``. The transaction id follows from the request, so that a CA that remembers
    transactions knows a repeated one."""

    def __init__(
        self, uri: str, *, secrets: SecretsHandler, base: Path, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        parsed = parse_issuer_uri(uri, scheme="cmp", options=(*WEB_OPTIONS, *_NEEDED), needed=_NEEDED)
        self._url = require_web_address(parsed, ("https", "http"))
        self._name = parsed.name
        self._reference = parsed.options["reference"].encode()
        self._secret = secrets(parsed.options["shared-secret"])
        self._entropy = entropy
        self._web = WebService(parsed, secrets=secrets, base=base)

    @property
    def name(self) -> str:
        return self._name

    def sign(self, request: SigningRequest) -> bytes:
        """Ask (p10cr), look at the key of the answer, confirm."""
        session = CmpSession(self._reference, self._secret, bytes.fromhex(request.idempotency_key))
        nonce = self._entropy(16)
        asked = session.p10cr(request.csr, now=datetime.now(UTC), nonce=nonce, salt=self._entropy(16))
        answer = self._send(asked, session, nonce)
        if answer.certificate is None or not _same_key(answer.certificate, request.csr):
            raise Tampered(
                "issuer.answer.key",
                f"the certificate for {request.device_serial} holds another key than was asked for",
                hint="Nothing of it was kept or confirmed: find out what the CA signed.",
                device_serial=request.device_serial,
            )
        nonce = self._entropy(16)
        confirmed = session.cert_conf(answer, now=datetime.now(UTC), nonce=nonce, salt=self._entropy(16))
        self._send(confirmed, session, nonce)
        return answer.certificate

    def _send(self, message: bytes, session: CmpSession, nonce: bytes) -> CmpAnswer:
        # OpenSSL 3.0's server forgets the transaction when the second message comes over the same connection.
        body = self._web.post(self._url, message, content_type=_PKIXCMP, accept=_PKIXCMP, keep_alive=False)
        return read_answer(body, session, nonce=nonce)

    def close(self) -> None:
        self._web.close()


def _same_key(certificate: bytes, csr: bytes) -> bool:
    try:
        return open_parts(certificate).spki == parse_csr(csr).spki
    except Refused:
        return False
