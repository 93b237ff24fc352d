"""The CA certificates of a catalog, and proofs that it holds their keys; from the resource manager or from a file.

Azure REST API specifications, Microsoft.AzureSphere 2024-04-01: GET ``…/catalogs/NAME/certificates``; POST below it
``SERIAL/retrieveCertChain`` and ``SERIAL/retrieveProofOfPossessionNonce``. Certificates come in base64; what is inside
is read as DER, PEM or PKCS#7, since the description does not say.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.clouds.azure_dps.web import Answer, DpsWeb, bad_answer
from birthmark.adapters.clouds.azure_sphere.uri import SphereUri
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered
from birthmark.pki.certfile import read_certificates
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.pki.chain import verify_chain

__all__ = ["Catalog", "CatalogCa"]

_T = TypeVar("_T")
_DER = Encoding.DER
_MAX_FILE = 256 * 1024
_SERIAL = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}", re.ASCII)
_OURS = ("active", "inactive")
"""Standing of a certificate: in use, or not yet or no more in use; the others are expired or revoked."""


class _Properties(msgspec.Struct, rename="camel"):
    certificate: str | None = None
    status: str | None = None


class _Certificate(msgspec.Struct, rename="camel"):
    name: str
    properties: _Properties | None = None


class _Listed(msgspec.Struct, rename="camel"):
    value: list[_Certificate]


class _Chain(msgspec.Struct, rename="camel"):
    certificate_chain: str


class _Proof(msgspec.Struct, rename="camel"):
    certificate: str


_read_list = msgspec.json.Decoder(_Listed).decode
_read_chain = msgspec.json.Decoder(_Chain).decode
_read_proof = msgspec.json.Decoder(_Proof).decode


@dataclass(frozen=True, slots=True)
class CatalogCa:
    """A CA certificate of the catalog (DER); ``serial``: how the resource manager names it, empty from a file."""

    certificate: bytes
    serial: str
    active: bool


class Catalog:
    """``web``: the resource manager; ``clock``: aware. A file, if the URI names one, goes before it."""

    def __init__(self, uri: SphereUri, web: DpsWeb, base: Path, clock: Callable[[], datetime]) -> None:
        self._uri, self._web, self._base, self._clock = uri, web, base, clock

    def certificates(self) -> list[CatalogCa]:
        """Return those that are valid now, the active one first, then the newest; there is at least one.

        ``Refused("cloud.catalog.empty")`` if there is none.
        """
        found = [self._from_file()[0]] if self._uri.chain else self._listed()
        now = self._clock()
        good = [
            (ca, own)
            for ca in found
            if (own := self._ca(ca.certificate)).not_valid_before_utc <= now <= own.not_valid_after_utc
        ]
        if not good:
            raise Refused(
                "cloud.catalog.empty",
                f"the catalog {self._uri.catalog} has no CA certificate that is valid now",
                hint="Look at `az sphere ca-certificate list`; a file with an old certificate is of no use.",
                cloud=self._uri.name,
            )
        good.sort(key=lambda pair: (pair[0].active, pair[1].not_valid_before_utc), reverse=True)
        return [ca for ca, _ in good]

    def chain(self, ca: CatalogCa) -> tuple[bytes, ...]:
        """Return the certificates (DER) above a CA, root last if it is there.

        ``Tampered("cloud.catalog.chain")`` if they did not sign it.
        """
        if self._uri.chain:
            above: Sequence[bytes] = self._from_file()[1]
        else:
            answer = self._web.call("POST", f"{self._place(ca)}/retrieveCertChain")
            above = self._certificates(self._decoded(_read_chain, answer).certificate_chain)
        pool = [der for der in above if der != ca.certificate]
        if not pool:
            return ()
        roots = [der for der in pool if (own := self._ca(der)).subject == own.issuer]
        try:
            path = verify_chain(ca.certificate, pool, roots or pool, at=self._clock())
        except Tampered as problem:
            raise Tampered(
                "cloud.catalog.chain",
                f"what stands above the CA of the catalog did not sign it: {problem.message}",
                hint="Download the chain anew, and compare its root with what Microsoft publishes.",
                cloud=self._uri.name,
                cause=problem.code,
            ) from problem
        return tuple(one.public_bytes(_DER) for one in path[1:])

    def proof(self, ca: CatalogCa, code: str) -> bytes:
        """Return the certificate (DER) with ``code`` as its CN that the catalog signs; whether it holds is not said."""
        if not ca.serial:
            ca = next((one for one in self._listed() if one.certificate == ca.certificate), ca)
        if not ca.serial:
            raise Refused(
                "cloud.ca.foreign",
                "the CA certificate in the file is none of this catalog",
                hint="Download it anew with `az sphere ca-certificate download-chain`.",
                cloud=self._uri.name,
            )
        path = f"{self._place(ca)}/retrieveProofOfPossessionNonce"
        answer = self._web.call("POST", path, {"proofOfPossessionNonce": code})
        found = self._certificates(self._decoded(_read_proof, answer).certificate)
        if len(found) != 1:
            raise bad_answer(self._uri.name, f"{len(found)} certificates in place of one proof")
        return found[0]

    def _place(self, ca: CatalogCa) -> str:
        return f"{self._uri.path}/certificates/{quote(ca.serial, safe='')}"

    def _listed(self) -> list[CatalogCa]:
        listed = self._decoded(_read_list, self._web.call("GET", f"{self._uri.path}/certificates"))
        found = []
        for one in listed.value:
            status = ((one.properties and one.properties.status) or "").lower()
            text = one.properties and one.properties.certificate
            # Of an expired certificate the manager has the name alone.
            if text and status in _OURS and not _SERIAL.fullmatch(one.name):
                raise bad_answer(self._uri.name, "a certificate whose name is no serial number")
            if text and status in _OURS:
                found += [CatalogCa(der, one.name, status == "active") for der in self._certificates(text)[:1]]
        return found

    def _from_file(self) -> tuple[CatalogCa, list[bytes]]:
        try:
            with (self._base / str(self._uri.chain)).open("rb") as file:
                ders = read_certificates(file.read(_MAX_FILE + 1))
        except OSError as problem:
            raise Misconfigured(
                "cloud.catalog.file",
                f"the chain of the catalog cannot be read: {type(problem).__name__}",
                hint="chain=FILE in the uri of this cloud: what `az sphere ca-certificate download-chain` wrote.",
                cloud=self._uri.name,
            ) from None
        issuers = {own.issuer for der in ders if (own := self._ca(der)).subject != own.issuer}
        lowest = [der for der in ders if self._ca(der).subject not in issuers]
        if len(lowest) != 1:
            raise Misconfigured(
                "cloud.catalog.file",
                f"of {len(ders)} certificates in the chain of the catalog, {len(lowest)} have none below them",
                hint="The file has one CA certificate of the catalog, and those above it.",
                cloud=self._uri.name,
            )
        return CatalogCa(lowest[0], "", True), [der for der in ders if der != lowest[0]]

    def _certificates(self, text: str) -> Sequence[bytes]:
        try:
            return read_certificates(base64.b64decode("".join(text.split()), validate=True))
        except (binascii.Error, ValueError, Refused):
            raise bad_answer(self._uri.name, "certificates that cannot be read") from None

    def _ca(self, der: bytes) -> x509.Certificate:
        try:
            return parse_certificate(open_parts(der))
        except BirthmarkError as problem:
            raise bad_answer(self._uri.name, problem.message) from None

    def _decoded(self, decode: Callable[[bytes], _T], answer: Answer) -> _T:
        try:
            return decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise bad_answer(self._uri.name, "a body that is none of the catalog's") from None
