"""One element of Microchip's manifest: a flattened JWS (RFC 7515, 7.2.2) over what one secure element holds.

Format: Trust Platform Manifest File Format, versions 1 to 3 of the payload. A payload without keys (the "lite" form)
says nothing that could be checked at a device, and is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from birthmark.errors import BirthmarkError, Refused, Tampered
from birthmark.pki.certread import UNREADABLE, open_parts, parse_certificate
from birthmark.wire.preload import MAX_CERTIFICATE, VendorItem, is_unique_id

__all__ = ["ManifestSigner", "manifest_signers", "read_element"]

_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], int, hashes.HashAlgorithm]] = {
    "ES256": (ec.SECP256R1, 32, hashes.SHA256()),
    "ES384": (ec.SECP384R1, 48, hashes.SHA384()),
}
"""The accepted algorithms (RFC 7518, 3.4): curve, octets of a coordinate, digest."""
_JWK_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], int]] = {
    "P-256": (ec.SECP256R1, 32),
    "P-384": (ec.SECP384R1, 48),
}
_VERSIONS = range(1, 4)
_MAX_ABOVE = 4
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_HINT = "Nothing of this file was taken in. Ask the vendor for the manifest again, and compare its SHA-256."


class _Header(msgspec.Struct, frozen=True):
    unique_id: str = msgspec.field(name="uniqueId")


class _Element(msgspec.Struct, frozen=True):
    payload: str
    protected: str
    header: _Header
    signature: str


class _Protected(msgspec.Struct, frozen=True):
    alg: str
    kid: str
    thumbprint: str = msgspec.field(name="x5t#S256")
    crit: Any = msgspec.UNSET


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    crv: str = ""
    x: str = ""
    y: str = ""
    x5c: list[str] = []


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[_Jwk] = []


class _Payload(msgspec.Struct, frozen=True):
    version: int
    unique_id: str = msgspec.field(name="uniqueId")
    keys: _KeySet | None = msgspec.field(name="publicKeySet", default=None)


_element = msgspec.json.Decoder(_Element)
_protected = msgspec.json.Decoder(_Protected)
_payload = msgspec.json.Decoder(_Payload)


@dataclass(frozen=True, slots=True)
class ManifestSigner:
    """Who may sign manifests. ``kid``: the subject key identifier of its certificate, base64url."""

    kid: str
    public_key: ec.EllipticCurvePublicKey


def manifest_signers(certificates: list[bytes]) -> dict[str, ManifestSigner]:
    """Return signers by their ``x5t#S256``; ``Refused("preload.signer.key")`` for a key that signs no manifest."""
    found = {}
    for der in certificates:
        certificate = parse_certificate(open_parts(der))
        try:
            key: object = certificate.public_key()
        except (UnsupportedAlgorithm, *UNREADABLE):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Refused(
                "preload.signer.key",
                f"the key of {certificate.subject.rfc4514_string()} signs no manifest",
                hint="Name certificates of P-256 or P-384 keys as `signers` of the vendor.",
            )
        found[_text(sha256(der).digest())] = ManifestSigner(_text(_key_id(certificate, key)), key)
    return found


def _key_id(certificate: x509.Certificate, key: ec.EllipticCurvePublicKey) -> bytes:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(key).digest


def read_element(
    data: bytes, number: int, signers: Mapping[str, ManifestSigner], *, accept_short: bool = False
) -> VendorItem:
    """Return what element ``number`` (from 1) says, once its signature is verified.

    ``accept_short``: take a coordinate without its leading zeros, if the certificate has the same key. Raises
    ``Refused``: ``preload.element``, ``preload.algorithm``, ``preload.signer.unknown``, ``preload.signer.kid``,
    ``preload.version``, ``preload.id.*``, ``preload.keys.none``, ``preload.key.short``, ``preload.key.differs``;
    ``Tampered("preload.signature")``.
    """
    where = f"element {number}"
    element = _decoded(_element, data, where)
    payload = _decoded(_payload, _verified_payload(element, signers, where), where)
    if payload.version not in _VERSIONS:
        raise _refused("preload.version", where, f"is of version {payload.version}, 1 to 3 are known")
    if payload.unique_id != element.header.unique_id:
        raise _refused("preload.id.differs", where, "has another uniqueId in its header than in what is signed")
    if not is_unique_id(payload.unique_id):
        raise _refused("preload.id.malformed", where, f"has the uniqueId {payload.unique_id[:80]!a}")
    where = f"{where} ({payload.unique_id})"
    keys = [key for key in (payload.keys.keys if payload.keys else ()) if key.x5c]
    if not keys:
        raise Refused(
            "preload.keys.none",
            f"{where} has no certificate: this is a manifest without keys",
            hint="Ask the vendor for the full form of the manifest; the lite form says nothing that can be checked.",
            where=where,
        )
    certificate, *above = (_der(text, where) for text in keys[0].x5c[: _MAX_ABOVE + 1])
    _check_key(keys[0], certificate, where, accept_short=accept_short)
    return VendorItem(payload.unique_id.lower(), certificate, where, tuple(above))


def _verified_payload(element: _Element, signers: Mapping[str, ManifestSigner], where: str) -> bytes:
    protected = _decoded(_protected, _octets(element.protected, where), where)
    if protected.alg not in _CURVES or protected.crit is not msgspec.UNSET:
        raise _refused("preload.algorithm", where, f"is signed with {protected.alg[:40]!a}, which is not accepted")
    signer = signers.get(protected.thumbprint)
    if signer is None:
        raise Refused(
            "preload.signer.unknown",
            f"{where} is signed by a certificate that is no signer of this vendor",
            hint="If the vendor has a new signer, get its certificate over a trusted way and add it to the settings.",
            where=where,
            x5t_s256=protected.thumbprint[:64],
        )
    if signer.kid != protected.kid:
        raise _refused("preload.signer.kid", where, "names another key (kid) than that of its signer")
    curve, size, digest = _CURVES[protected.alg]
    signature, payload = _octets(element.signature, where), _octets(element.payload, where)
    holds = isinstance(signer.public_key.curve, curve) and len(signature) == 2 * size
    if holds:
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        signed = f"{element.protected}.{element.payload}".encode()
        try:
            signer.public_key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
            return payload
        except InvalidSignature:
            pass
    raise Tampered("preload.signature", f"the signature of {where} is wrong", hint=_HINT, where=where)


def _check_key(jwk: _Jwk, certificate: bytes, where: str, *, accept_short: bool) -> None:
    """Check that the key beside a certificate is the key in it."""
    curve, size = _JWK_CURVES.get(jwk.crv, (None, 0))
    if jwk.kty != "EC" or curve is None:
        raise _refused("preload.algorithm", where, f"has a key of kind {jwk.kty[:20]!a} {jwk.crv[:20]!a}")
    coordinates = [_octets(text, where) for text in (jwk.x, jwk.y)]
    if any(len(octets) < size for octets in coordinates) and not accept_short:
        raise Refused(
            "preload.key.short",
            f"{where} has a coordinate without its leading zeros (RFC 7518, 6.2.1.2 wants {size} octets)",
            hint="Some vendor tools write them so: ask for a correct file, or repeat with --accept-short-keys.",
            where=where,
        )
    try:
        key = parse_certificate(open_parts(certificate)).public_key()
    except (BirthmarkError, UnsupportedAlgorithm, *UNREADABLE):
        raise _refused("preload.certificate", where, "has a certificate that cannot be read") from None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve):
        numbers = key.public_numbers()
        same = all(len(octets) <= size for octets in coordinates)
        if same and [int.from_bytes(octets, "big") for octets in coordinates] == [numbers.x, numbers.y]:
            return
    raise _refused("preload.key.differs", where, "has another key beside its certificate than in it")


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes, where: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise _refused("preload.element", where, f"is not as the format says: {str(problem)[:120]}") from None


def _octets(text: str, where: str) -> bytes:
    """Return the octets of unpadded base64url in its one spelling (RFC 7515, 2)."""
    if _BASE64URL.fullmatch(text) and len(text) % 4 != 1:
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if _text(octets) == text:
            return octets
    raise _refused("preload.element", where, "has a member that is not base64url")


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def _der(text: str, where: str) -> bytes:
    """Return one certificate of ``x5c``: standard base64 (RFC 7515, 4.1.6)."""
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        der = b""
    if not der or len(der) > MAX_CERTIFICATE:
        raise _refused("preload.certificate", where, "has a certificate that cannot be read")
    return der


def _refused(code: str, where: str, what: str) -> Refused:
    return Refused(code, f"{where} {what}", hint=_HINT, where=where)
