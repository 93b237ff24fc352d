"""Takes in PKCS#10 requests (RFC 2986): strict, with a short list of tolerated and named quirks.

The proof of possession is verified over the original CertificationRequestInfo, never over a re-encoding.
A request only proves a key and a wish: the names and rights of the certificate come from the profile.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from birthmark.errors import Refused
from birthmark.pki.certread import UNREADABLE, name_faults
from birthmark.pki.csrplain import recognise
from birthmark.pki.der import integer, tlv
from birthmark.pki.derread import (
    INTEGER,
    NULL,
    SEQUENCE,
    SET,
    Node,
    bits_of,
    expect,
    oid_text,
    read_der,
    read_members,
)
from birthmark.pki.expected import expected_names, expected_purposes, expected_subject, usage_bits
from birthmark.pki.keycheck import check_public_key
from birthmark.pki.sigcheck import SIGNATURES, SignatureKind, verify_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from birthmark.pki.profile import Profile

__all__ = ["MAX_CSR_OCTETS", "QUIRKS", "Csr", "parse_csr", "plain_csr"]

MAX_CSR_OCTETS = 64 * 1024

QUIRKS = {
    "ecdsa-null-parameters": "explicit NULL after ecdsa-with-SHA2 (tpm2-openssl, modems); RFC 5758, 3.2 wants none",
    "ecdsa-integer-padded": "r or s with needless leading zeros (cellular modems); X.690, 8.3.2",
    "ecdsa-integer-negative": "r or s without the zero octet that makes it positive (cellular modems)",
}
"""Every tolerated deviation: name → what and whose. Nothing outside this table is tolerated."""

Names = tuple[tuple[str, str | bytes], ...]

_PEM = re.compile(rb"\s*-----BEGIN ((?:NEW )?CERTIFICATE REQUEST)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----\s*")
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_SERIAL_NAMES = frozenset(oid.dotted_string for oid in (NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER))
_NO_EXTENSIONS = x509.Extensions([])
_FIELD_OCTETS = {"p256": 32, "p384": 48}
_RESEND = "Send one PKCS#10 request (RFC 2986) in DER or PEM, made by the device's own key."


@dataclass(frozen=True, slots=True)
class Csr:
    """A request whose proof of possession holds and whose key is sound.

    ``der`` is what came (DER), ``info`` the signed octets in it, ``spki`` the key (DER), ``kind`` as in
    ``keycheck.key_kind``, ``names`` the subject as (dotted OID, value) in order, ``quirks`` names from ``QUIRKS``,
    ``ignored`` OIDs of attributes that ask for nothing a certificate holds (challengePassword and the like).
    """

    der: bytes
    info: bytes
    spki: bytes
    kind: str
    names: Names
    extensions: x509.Extensions
    quirks: tuple[str, ...]
    ignored: tuple[str, ...]

    def check_against(self, profile: Profile, device_serial: str, *, values: Mapping[str, str] | None = None) -> None:
        """Return if the request asks for nothing but what ``profile`` gives this device, else refuse.

        ``values`` fills the profile's placeholders other than ``device_serial``. Raises ``Refused``:
        ``csr.key.algorithm``, ``csr.asks_ca``, ``csr.key_usage``, ``csr.extended_key_usage``, ``csr.name``,
        ``csr.extension``.
        """
        if self.kind not in profile.key_algorithms:
            raise Refused(
                "csr.key.algorithm",
                f"the device has a key of kind {self.kind}, the profile {profile.name} has other kinds",
                hint=f"Make a key of {', '.join(profile.key_algorithms)} in the device, or order another profile.",
                kind=self.kind,
                profile=profile.name,
            )
        _check_subject(self.names, profile, device_serial, values or {})
        for extension in self.extensions:
            check = _EXTENSION_CHECKS.get(type(extension.value))
            if check is None:
                raise Refused(
                    "csr.extension",
                    f"the request asks for the extension {extension.oid.dotted_string}",
                    hint="Leave it out of the request: the profile decides the extensions.",
                    oid=extension.oid.dotted_string,
                )
            check(extension.value, profile, device_serial, values or {})


def parse_csr(data: bytes) -> Csr:
    """Return the request in ``data`` (DER or PEM, at most 64 KiB).

    Raises ``Refused``: ``csr.size``, ``csr.malformed``, ``csr.algorithm``, ``csr.attribute``,
    ``csr.key.weak`` (fact ``cause`` names the check), ``csr.signature``.
    """
    if len(data) > MAX_CSR_OCTETS:
        raise Refused("csr.size", f"a request of {len(data)} octets", hint=_RESEND, octets=len(data))
    der = _to_der(data)
    plain = plain_csr(der)
    return _parse_any(der) if plain is None else plain


def plain_csr(der: bytes) -> Csr | None:
    """Return what ``parse_csr`` would, in a third of its time, for the request that nearly every device sends (DER).

    None for any other request and for every one that is not accepted: ``parse_csr`` then says why.
    """
    parts = recognise(der)
    if parts is None:
        return None
    try:
        names, extensions = (parts.names, _NO_EXTENSIONS) if not parts.has_extensions else _open_clean(der)
    except Refused:
        return None
    return Csr(der, parts.info, parts.spki, "p256", names, extensions, (), ())


def _parse_any(der: bytes) -> Csr:
    """Walk through a request (DER), whatever its form."""
    try:
        info, algorithm, bits = _three(read_members(read_der(der)))
        members = _members_of_info(info)
        spki = members[2].whole
        signature = bits_of(bits)
        kind = _sound_kind(spki)
        signer, quirks = _read_algorithm(algorithm)
        if kind in _FIELD_OCTETS:
            signature, more = _normal_ecdsa(signature, _FIELD_OCTETS[kind])
            quirks |= more
    except Refused as error:
        if error.code in ("der.malformed", "key.malformed"):
            raise _malformed(error.message) from error
        raise
    if not verify_signature(signer, spki, signature, info.whole):
        raise Refused(
            "csr.signature",
            "the request is not signed by the key it asks a certificate for",
            hint="Let the device make the request again; if it repeats, its key slot and its request differ.",
            algorithm=signer.name,
        )
    clean = _rebuild(info, algorithm, signer, signature) if quirks else der
    ignored = _ignored(members[3])
    names, extensions = _open_clean(clean)
    return Csr(der, info.whole, spki, kind, names, extensions, tuple(sorted(quirks)), ignored)


def _malformed(reason: str) -> Refused:
    return Refused("csr.malformed", f"this is not a PKCS#10 request: {reason}", hint=_RESEND, reason=reason[:200])


def _to_der(data: bytes) -> bytes:
    if data[:1] == bytes((SEQUENCE,)):
        return data
    match = _PEM.fullmatch(data)
    if match is None:
        raise _malformed("neither DER nor one PEM block of the label CERTIFICATE REQUEST")
    try:
        return base64.b64decode(b"".join(match[2].split()), validate=True)
    except binascii.Error as error:
        raise _malformed("the base64 of the PEM block is broken") from error


def _three(members: list[Node]) -> tuple[Node, Node, Node]:
    if len(members) != 3:
        raise _malformed("it does not have the three parts info, algorithm and signature")
    return members[0], members[1], members[2]


def _members_of_info(info: Node) -> list[Node]:
    """Return version, subject, key and attributes (RFC 2986, 4.1)."""
    members = read_members(expect(info, SEQUENCE))
    if len(members) != 4:
        raise _malformed("the info part does not have version, subject, key and attributes")
    if members[0].whole != bytes((INTEGER, 1, 0)):
        raise _malformed("the version is not 0")
    expect(members[3], 0xA0)
    faults = name_faults(members[1])
    if faults:
        raise _malformed(faults[0])
    return members


def _sound_kind(spki: bytes) -> str:
    try:
        return check_public_key(spki)
    except Refused as error:
        if error.code.startswith("key.weak."):
            raise Refused("csr.key.weak", error.message, hint=error.hint, cause=error.code) from error
        raise


def _read_algorithm(algorithm: Node) -> tuple[SignatureKind, set[str]]:
    """Return the signature's kind and the quirks of how it is written."""
    parts = read_members(expect(algorithm, SEQUENCE))
    if not 1 <= len(parts) <= 2:
        raise _malformed("the signature algorithm has no or too many parts")
    oid = oid_text(parts[0])
    signer = SIGNATURES.get(oid)
    if signer is None:
        raise Refused(
            "csr.algorithm",
            f"requests signed with {oid} are not accepted",
            hint="Sign the request with ECDSA or RSA and SHA-2, Ed25519 or ML-DSA.",
            oid=oid,
        )
    parameters = parts[1].whole if len(parts) == 2 else b""
    if parameters == signer.parameters:
        return signer, set()
    if signer.name.startswith("ecdsa") and parameters == bytes((NULL, 0)):
        return signer, {"ecdsa-null-parameters"}
    raise _malformed(f"wrong parameters after {signer.name}")


def _normal_ecdsa(signature: bytes, octets: int) -> tuple[bytes, set[str]]:
    """Return the DER of an ECDSA signature and the quirks its integers had. ``octets``: of the field."""
    pair = read_members(read_der(signature))
    if len(pair) != 2:
        raise _malformed("an ECDSA signature is two integers")
    quirks: set[str] = set()
    normal = []
    for number in pair:
        content = expect(number, INTEGER).content
        if not 1 <= len(content) <= octets + 1:
            raise _malformed("an ECDSA integer is empty or longer than the field")
        if content[0] & 0x80:
            quirks.add("ecdsa-integer-negative")
        elif content[0] == 0 and len(content) > 1 and not content[1] & 0x80:
            quirks.add("ecdsa-integer-padded")
        normal.append(integer(int.from_bytes(content, "big")))
    return tlv(SEQUENCE, b"".join(normal)), quirks


def _rebuild(info: Node, algorithm: Node, signer: SignatureKind, signature: bytes) -> bytes:
    """Return the request with its quirks removed, for a parser that rightly refuses them."""
    oid = read_members(algorithm)[0].whole
    clean = tlv(SEQUENCE, oid + signer.parameters)
    return tlv(SEQUENCE, info.whole + clean + tlv(0x03, b"\x00" + signature))


def _open_clean(der: bytes) -> tuple[Names, x509.Extensions]:
    try:
        request = x509.load_der_x509_csr(der)
        names = tuple((attribute.oid.dotted_string, attribute.value) for attribute in request.subject)
        return names, request.extensions
    except UNREADABLE as error:
        raise _malformed(str(error)) from error


def _ignored(attributes: Node) -> tuple[str, ...]:
    """Return the OIDs of attributes other than the extension request; refuse a second of any."""
    try:
        oids = list(_attribute_oids(read_members(attributes)))
    except Refused as error:
        if error.code == "der.malformed":
            raise _malformed(error.message) from error
        raise
    if len(set(oids)) != len(oids):
        raise Refused("csr.attribute", "an attribute stands in the request twice", hint=_RESEND)
    return tuple(oid for oid in oids if oid != _EXTENSION_REQUEST)


def _attribute_oids(attributes: list[Node]) -> Iterable[str]:
    for attribute in attributes:
        parts = read_members(expect(attribute, SEQUENCE))
        if len(parts) != 2 or len(read_members(expect(parts[1], SET))) != 1:
            raise Refused("csr.attribute", "an attribute does not have exactly one value", hint=_RESEND)
        yield oid_text(parts[0])


def _check_subject(names: Names, profile: Profile, device_serial: str, values: Mapping[str, str]) -> None:
    """A request may repeat the profile's names or the device serial as CN or serialNumber, nothing else."""
    own = [(oid, value) for oid, value in names if oid in _SERIAL_NAMES and value == device_serial]
    if len(own) == len(names) < 2:
        return
    allowed = {*own, *expected_subject(profile, device_serial, values)}
    if not allowed.issuperset(names) or len(set(names)) != len(names):
        text = ",".join(f"{oid}={value!r}" for oid, value in names)
        raise _name_refused(f"the subject {text[:200]!a}", device_serial)


def _name_refused(what: str, device_serial: str) -> Refused:
    return Refused(
        "csr.name",
        f"{what} is not what the profile names the device {device_serial}",
        hint="Ask with an empty subject and no SAN, and with the request of the right device.",
        device_serial=device_serial,
    )


def _check_basic(value: Any, profile: Profile, _serial: str, _values: Mapping[str, str]) -> None:
    if value.ca and not profile.is_ca:
        raise _asks_ca("basicConstraints with cA TRUE")


def _asks_ca(what: str) -> Refused:
    return Refused(
        "csr.asks_ca",
        f"a device asks for the rights of a CA: {what}",
        hint="Take the device off the line and find out who made this request.",
        what=what,
    )


def _check_usage(value: Any, profile: Profile, _serial: str, _values: Mapping[str, str]) -> None:
    granted = set(profile.key_usage.bits) if profile.key_usage else set()
    beyond = sorted(usage_bits(value) - granted)
    if "keyCertSign" in beyond or "cRLSign" in beyond:
        raise _asks_ca("keyUsage " + ", ".join(beyond))
    if beyond:
        raise Refused(
            "csr.key_usage",
            f"the request asks for the key usage {', '.join(beyond)}",
            hint="Leave keyUsage out of the request: the profile decides it.",
            beyond=beyond,
        )


def _check_purposes(value: Any, profile: Profile, _serial: str, _values: Mapping[str, str]) -> None:
    beyond = sorted({purpose.dotted_string for purpose in value} - set(expected_purposes(profile)))
    if beyond:
        raise Refused(
            "csr.extended_key_usage",
            f"the request asks for the purposes {', '.join(beyond)}",
            hint="Leave extendedKeyUsage out of the request: the profile decides it.",
            beyond=list(beyond),
        )


def _check_names(value: Any, profile: Profile, device_serial: str, values: Mapping[str, str]) -> None:
    allowed = expected_names(profile, device_serial, values)
    if any(name not in allowed for name in value):
        raise _name_refused("the subject alternative name of the request", device_serial)


def _accept(_value: Any, _profile: Profile, _serial: str, _values: Mapping[str, str]) -> None:
    """A key identifier is computed anew: what the request says of it does not matter."""


_EXTENSION_CHECKS: dict[type[x509.ExtensionType], Callable[[Any, Profile, str, Mapping[str, str]], None]] = {
    x509.BasicConstraints: _check_basic,
    x509.KeyUsage: _check_usage,
    x509.ExtendedKeyUsage: _check_purposes,
    x509.SubjectAlternativeName: _check_names,
    x509.SubjectKeyIdentifier: _accept,
}
