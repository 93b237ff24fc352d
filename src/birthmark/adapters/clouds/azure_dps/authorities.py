"""CA certificates in the resource manager: uploaded, and their possession proven.

``…/provisioningServices/NAME/certificates/CA`` (Azure REST API, resource provider Microsoft.Devices): PUT, POST
``generateVerificationCode`` and POST ``verify``, the last two with If-Match; ``properties.isVerified`` says how it
ended.
Cut anywhere, the same again goes on: a certificate that is there unproven gets a new code.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha1
from urllib.parse import quote

import msgspec
from cryptography.x509.oid import NameOID

from birthmark.adapters.clouds.azure_dps.documents import pem, reference_name
from birthmark.adapters.clouds.azure_dps.individual import decoded
from birthmark.adapters.clouds.azure_dps.plan import too_many_cas
from birthmark.adapters.clouds.azure_dps.uri import DpsUri
from birthmark.adapters.clouds.azure_dps.web import Answer, DpsWeb, bad_answer
from birthmark.errors import Refused, Tampered, Unavailable
from birthmark.pki.chain import verify_chain
from birthmark.ports.cloud import CloudAuthority, ProvePossession

__all__ = ["Authorities"]

_LONGEST_CODE = 64


class _Properties(msgspec.Struct, rename="camel"):
    thumbprint: str | None = None
    is_verified: bool | None = None
    verification_code: str | None = None


class _Certificate(msgspec.Struct, rename="camel"):
    name: str
    properties: _Properties
    etag: str | None = None


class _Listed(msgspec.Struct, rename="camel"):
    value: list[_Certificate]


_read = msgspec.json.Decoder(_Certificate).decode
_read_list = msgspec.json.Decoder(_Listed).decode


class Authorities:
    """The CA certificates of one service. ``clock``: aware, for the check of our own proof."""

    def __init__(self, web: DpsWeb, uri: DpsUri, clock: Callable[[], datetime]) -> None:
        self._web, self._uri, self._clock = web, uri, clock
        self._root = f"{uri.arm}/certificates"

    def prepare(self, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> list[str]:
        """Make each certificate known and proven; return a line on each.

        With ``ca=upload`` one that is verified there under whatever name, or below a CA that is, needs nothing more.
        ``Refused``, before anything is changed: ``cloud.cas.too_many``, ``cloud.ca.differs``.
        """
        listed = decoded(_read_list, self._web.call("GET", self._root), self._uri.name).value
        held = {one.name.lower(): one for one in listed}
        wanted = {reference_name(one.name, der): (one.name, der) for one in authorities for der in one.certificates}
        lines = []
        if self._uri.ca == "upload":
            proven = {(one.properties.thumbprint or "").lower() for one in listed if one.properties.is_verified}
            for one in authorities:
                for der in one.certificates:
                    if (by := self._verified_by(der, one.chain, proven)) is not None:
                        wanted.pop(name := reference_name(one.name, der), None)
                        lines.append(f"CA certificate {name}: {by}")
        total = len(set(held) | {name.lower() for name in wanted})
        if wanted and total > self._uri.most_cas:
            raise too_many_cas(self._uri, total)
        for name, (_, der) in wanted.items():
            self._require_same(name, der, held.get(name.lower()))
        return lines + [self._one(name, ca, der, held.get(name.lower()), prove) for name, (ca, der) in wanted.items()]

    def _verified_by(self, der: bytes, above: Sequence[bytes], proven: set[str]) -> str | None:
        if _thumbprint(der) in proven:
            return "verified there"
        anchors = [one for one in above if _thumbprint(one) in proven]
        try:
            verify_chain(der, above, anchors, at=self._clock())
        except Tampered:
            return None
        return "below a CA that is verified there"

    def _require_same(self, name: str, der: bytes, held: _Certificate | None) -> None:
        if held is not None and (held.properties.thumbprint or "").lower() != _thumbprint(der):
            raise Refused(
                "cloud.ca.differs",
                f"the CA certificate {name} there is another one",
                hint="Find out who put it there; delete it in the portal if it is nobody's.",
                cloud=self._uri.name,
                ca=name,
            )

    def _one(self, name: str, ca: str, der: bytes, held: _Certificate | None, prove: ProvePossession) -> str:
        if held is not None and held.properties.is_verified:
            return f"CA certificate {name}: there and proven"
        path = f"{self._root}/{quote(name, safe='')}"
        if held is None:
            upload = self._uri.proof == "upload"
            properties = {"certificate": base64.b64encode(der).decode(), "isVerified": upload}
            held = self._done(self._web.call("PUT", path, {"properties": properties}, also=(409, 412)), name)
            if held.properties.is_verified:
                return f"CA certificate {name}: uploaded, taken as proven"
        asked = self._done(self._post(f"{path}/generateVerificationCode", None, held.etag), name)
        code = asked.properties.verification_code or ""
        if not 0 < len(code) <= _LONGEST_CODE or not code.isascii() or not code.isalnum():
            raise bad_answer(self._uri.name, "a verification code that no certificate can hold")
        proof = prove(ca, code)
        self._require_proof(name, der, code, proof)
        proven = self._done(self._post(f"{path}/verify", {"certificate": pem(proof)}, asked.etag), name)
        if not proven.properties.is_verified:
            raise bad_answer(self._uri.name, "a proof that it took and does not know of")
        return f"CA certificate {name}: possession proven"

    def _post(self, path: str, body: dict[str, str] | None, etag: str | None) -> Answer:
        return self._web.call("POST", path, body, headers={"if-match": etag or "*"}, also=(409, 412))

    def _done(self, answer: Answer, name: str) -> _Certificate:
        if answer.status in (409, 412):
            raise Unavailable(
                "cloud.record.moved",
                f"somebody else changes the CA certificate {name} at this moment",
                hint="Run the same command again; let only one program prove CAs.",
                cloud=self._uri.name,
                ca=name,
            )
        return decoded(_read, answer, self._uri.name)

    def _require_proof(self, name: str, der: bytes, code: str, proof: bytes) -> None:
        """A proof that does not hold here is never sent: the service would only say no."""
        try:
            path = verify_chain(proof, [], [der], at=self._clock())
            names = [str(one.value) for one in path[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            good = len(path) == 2 and names == [code]
        except Tampered:
            good = False
        if not good:
            raise Refused(
                "cloud.ca.unproven",
                f"what was signed does not prove possession of {name}",
                hint="Check which key stands behind this CA in birthmark.toml: its certificate has another one.",
                cloud=self._uri.name,
                ca=name,
            )


def _thumbprint(der: bytes) -> str:
    """Return what the resource manager shows of a certificate: its SHA-1 (hex)."""
    return sha1(der, usedforsecurity=False).hexdigest()
