"""One certificate against its reservation, its template and its CA (RFC 5280 section 4.1)."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from birthmark.adapters.audit.der import CertificateSpans, certificate_spans, spki_bits, tlv, validity_window

__all__ = [
    "AuthorityKey",
    "CertificateChecker",
    "Fault",
    "TemplateForm",
    "load_certificate",
    "open_authority",
    "proves_possession",
]

Fault = tuple[str, str]
"""Finding code and what is wrong."""

sha256 = hashlib.sha256
_BASIC_CONSTRAINTS = b"\x06\x03\x55\x1d\x13"
_CA_TRUE = re.compile(_BASIC_CONSTRAINTS + rb"(?:\x01\x01\xff)?\x04.\x30.\x01\x01\xff", re.DOTALL)
_HOLES = ("{cert_serial}", "{device_serial}", "{spki}", "{key_id}")


class AuthorityKey:
    """Name, life and signature check of one CA. ``verify(tbs, tbs_sha256, signature)`` raises ``InvalidSignature``."""

    __slots__ = ("algorithm", "not_after", "not_before", "subject", "verify")

    def __init__(self, certificate: x509.Certificate, der: bytes, algorithm: bytes) -> None:
        spans = certificate_spans(der)
        window = validity_window(spans.validity) if spans is not None else None
        if spans is None or window is None:
            raise ValueError("not a version 3 certificate")
        self.subject = spans.subject
        self.not_before, self.not_after = window
        self.algorithm = algorithm
        self.verify = _verifier(certificate.public_key(), algorithm)


def load_certificate(der: bytes) -> x509.Certificate | None:
    """Return the parsed certificate, None for anything that the parser refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is merely odd is judged by the template, not by the parser
        try:
            return x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):
            return None


def open_authority(der: bytes, signed: bytes) -> AuthorityKey | None:
    """Return the key of a CA for signatures like the one of certificate ``signed``; None if there is no such key."""
    spans = certificate_spans(signed)
    certificate = load_certificate(der)
    if certificate is None:
        return None
    try:
        return AuthorityKey(certificate, der, b"" if spans is None else spans.outer_algorithm)
    except (ValueError, UnsupportedAlgorithm):
        return None


_ECDSA = {
    bytes.fromhex("300a06082a8648ce3d040302"): "SHA256",
    bytes.fromhex("300a06082a8648ce3d040303"): "SHA384",
    bytes.fromhex("300a06082a8648ce3d040304"): "SHA512",
}
_RSA = {
    bytes.fromhex("300d06092a864886f70d01010b0500"): "SHA256",
    bytes.fromhex("300d06092a864886f70d01010c0500"): "SHA384",
    bytes.fromhex("300d06092a864886f70d01010d0500"): "SHA512",
}
_PLAIN: Mapping[bytes, type[Any]] = {
    bytes.fromhex("300506032b6570"): ed25519.Ed25519PublicKey,
    bytes.fromhex("300b0609608648016503040311"): mldsa.MLDSA44PublicKey,
    bytes.fromhex("300b0609608648016503040312"): mldsa.MLDSA65PublicKey,
}


def _verifier(key: Any, algorithm: bytes) -> Callable[[bytes, bytes, bytes], None]:
    """Return the check of an AlgorithmIdentifier (RFC 5758, 8017, 8410, 9881); ``ValueError`` if the key has none."""
    if isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
        if _ECDSA[algorithm] == "SHA256":
            prehashed = ec.ECDSA(Prehashed(hashes.SHA256()))
            return lambda tbs, digest, signature: key.verify(signature, digest, prehashed)
        scheme = ec.ECDSA(getattr(hashes, _ECDSA[algorithm])())
        return lambda tbs, digest, signature: key.verify(signature, tbs, scheme)
    if isinstance(key, rsa.RSAPublicKey) and algorithm in _RSA:
        hashing, pkcs1 = getattr(hashes, _RSA[algorithm])(), padding.PKCS1v15()
        return lambda tbs, digest, signature: key.verify(signature, tbs, pkcs1, hashing)
    kind = _PLAIN.get(algorithm)
    if kind is not None and isinstance(key, kind):
        return lambda tbs, digest, signature: key.verify(signature, tbs)
    raise ValueError("another signature algorithm than the key")


def proves_possession(certificate: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether the key in ``certificate`` (DER) made ``signature`` over ``message``."""
    loaded = load_certificate(certificate)
    if loaded is None:
        return False
    try:
        key: Any = loaded.public_key()
        for algorithm in (*_ECDSA, *_RSA, *_PLAIN):
            size = getattr(key, "key_size", 256) if isinstance(key, ec.EllipticCurvePublicKey) else 256
            if _ECDSA.get(algorithm, f"SHA{size}") == f"SHA{size}":
                try:
                    verify = _verifier(key, algorithm)
                except ValueError:
                    continue
                verify(message, sha256(message).digest(), signature)
                return True
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return False


class TemplateForm:
    """To-be-signed bytes with holes, read from the stored template (docs/formats/profile.md).

    ``octets(...)`` fills them in. Raises ``ValueError`` when the text is not a template.
    """

    def __init__(self, body: bytes) -> None:
        try:
            document = msgspec.json.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
            raise ValueError(str(problem)) from None
        if not isinstance(document, dict) or document.get("format") != "birthmark-template-1":
            raise ValueError("it does not say format birthmark-template-1")
        tree = document.get("tbs")
        if not isinstance(tree, list):
            raise ValueError("it has no to-be-signed bytes")
        self._tree: list[Any] = tree
        self.issuer_certificate = document.get("issuer_certificate")
        self.needs_key_id = "{key_id}" in str(self._tree)
        self._forms: dict[tuple[int, int], Callable[[bytes, bytes, bytes, bytes], bytes]] = {}
        self.octets(bytes(16), b"0", bytes(91))

    def octets(self, cert_serial: bytes, device_serial: bytes, spki: bytes) -> bytes:
        """Return the to-be-signed bytes for these values."""
        lengths = (len(device_serial), len(spki))
        pick = self._forms.get(lengths)
        if pick is None:
            pick = self._forms[lengths] = _picker(_merge(_flatten(self._tree, (16, *lengths, 20), 0)))
        key_id = hashlib.sha1(spki_bits(spki), usedforsecurity=False).digest() if self.needs_key_id else b""
        return pick(cert_serial, device_serial, spki, key_id)


def _picker(parts: list[bytes | int]) -> Callable[[bytes, bytes, bytes, bytes], bytes]:
    """Return the function that puts the values of the holes between the octets."""
    octets = tuple(part for part in parts if isinstance(part, bytes))
    following = iter(range(len(_HOLES), len(_HOLES) + len(octets)))
    places = [part if isinstance(part, int) else next(following) for part in parts]
    if len(places) < 2:
        raise ValueError("it has no holes")
    choose = itemgetter(*places)
    return lambda *values: b"".join(choose((*values, *octets)))


def _flatten(members: list[Any], lengths: tuple[int, ...], depth: int) -> list[bytes | int]:
    """Return the members with all lengths written: octets, or the number of a hole."""
    flat: list[bytes | int] = []
    for member in members:
        if isinstance(member, str) and member in _HOLES:
            flat.append(_HOLES.index(member))
        elif isinstance(member, str):
            flat.append(bytes.fromhex(member))
        elif isinstance(member, list) and member and type(member[0]) is int and 0 < member[0] < 256 and depth < 20:
            inner = _flatten(member[1:], lengths, depth + 1)
            content = sum(len(part) if isinstance(part, bytes) else lengths[part] for part in inner)
            flat += [tlv(member[0], content), *inner]
        else:
            raise ValueError("a member is neither octets, nor a hole, nor a list")
    return flat


def _merge(parts: list[bytes | int]) -> list[bytes | int]:
    merged: list[bytes | int] = []
    for part in parts:
        if isinstance(part, bytes) and merged and isinstance(last := merged[-1], bytes):
            merged[-1] = last + part
        else:
            merged.append(part)
    return merged


class _Layout(NamedTuple):
    """Where things stand in a certificate that was checked part by part, and in every other of the same lengths."""

    tbs_end: int
    spki: int
    spki_end: int
    tail: bytes
    verify: Callable[[bytes, bytes, bytes], None]


class CertificateChecker:
    """Checks certificates of one template under one CA."""

    def __init__(self, form: TemplateForm | None, authority: bytes) -> None:
        self._form = form
        self._authority = authority
        self._keys: dict[bytes, AuthorityKey | None] = {}
        self._validities: dict[bytes, Fault | None] = {}
        self._layouts: dict[tuple[int, bytes], _Layout] = {}

    def is_good(
        self, der: bytes, device_serial: bytes, cert_serial: bytes, spki_sha256: bytes, tbs_sha256: bytes
    ) -> bool:
        """Tell quickly that nothing is wrong. False means: look with :meth:`faults`.

        A certificate is the same as its filled template but for the values; what else :meth:`faults` checks of it
        held for an earlier certificate of the same lengths.
        """
        layout = self._layouts.get((len(device_serial), der[:8]))
        if layout is None or self._form is None:
            return False
        tbs, spki = der[4 : layout.tbs_end], der[layout.spki : layout.spki_end]
        digest = sha256(tbs).digest()
        if (
            digest != tbs_sha256
            or sha256(spki).digest() != spki_sha256
            or self._form.octets(cert_serial, device_serial, spki) != tbs
        ):
            return False
        # The tail is algorithm | BIT STRING tag | length | no unused bits; der[:8] fixes the outer lengths.
        signature = layout.tbs_end + len(layout.tail)
        if der[layout.tbs_end : signature - 2] != layout.tail[:-2] or der[signature - 1]:
            return False
        if der[signature - 2] != len(der) - signature + 1 or len(der) != 4 + (der[2] << 8 | der[3]):
            return False
        try:
            layout.verify(tbs, digest, der[signature:])
        except InvalidSignature:
            return False
        return True

    def _learn(self, der: bytes, device_serial: bytes, spans: CertificateSpans) -> None:
        """Remember the layout of a certificate without faults, if its lengths have the usual form."""
        key = self._keys[spans.outer_algorithm]
        tbs_end = 4 + len(spans.tbs)
        tail_end = len(der) - len(spans.signature)
        short = der[:2] == b"\x30\x82" and der[4:6] == b"\x30\x82" and len(spans.signature) < 127
        if key is not None and short and tail_end == tbs_end + len(spans.outer_algorithm) + 3:
            spki = tbs_end - len(spans.extensions) - len(spans.spki)
            tail = der[tbs_end:tail_end]
            self._layouts[len(device_serial), der[:8]] = _Layout(
                tbs_end, spki, spki + len(spans.spki), tail, key.verify
            )

    def faults(
        self, der: bytes, device_serial: bytes, cert_serial: bytes, spki_sha256: bytes, tbs_sha256: bytes
    ) -> list[Fault]:
        """Return everything that is wrong with a certificate; empty for a good one."""
        spans = certificate_spans(der)
        if spans is None or load_certificate(der) is None:
            return [("audit.certificate.malformed", "is not a version 3 certificate in DER")]
        found: list[Fault] = []
        digest = sha256(spans.tbs).digest()
        if digest != tbs_sha256:
            found.append(("audit.tbs.differs", "is signed over other bytes than were reserved"))
        if sha256(spans.spki).digest() != spki_sha256:
            found.append(("audit.certificate.key", "holds another key than was reserved"))
        if int.from_bytes(spans.cert_serial, "big") != int.from_bytes(cert_serial, "big"):
            what = f"has serial {spans.cert_serial.hex()}, reserved was {cert_serial.hex()}"
            found.append(("audit.certificate.serial", what))
        if self._form is not None and self._form.octets(cert_serial, device_serial, spans.spki) != spans.tbs:
            found.append(_template_fault(spans.tbs, device_serial))
        if _BASIC_CONSTRAINTS in spans.extensions and _CA_TRUE.search(spans.extensions):
            found.append(("audit.certificate.ca", "says that it is a CA"))
        self._check_authority(spans.outer_algorithm, spans, digest, found, der)
        if not found:
            self._learn(der, device_serial, spans)
        return found

    def _check_authority(
        self, algorithm: bytes, spans: CertificateSpans, digest: bytes, found: list[Fault], der: bytes
    ) -> None:
        if algorithm not in self._keys:
            self._keys[algorithm] = open_authority(self._authority, der)
        key = self._keys[algorithm]
        if key is None or spans.inner_algorithm != algorithm:
            found.append(("audit.signature", "has a signature algorithm that does not fit its CA"))
            return
        if spans.issuer != key.subject:
            found.append(("audit.certificate.issuer", "names another issuer than its CA"))
        if spans.validity not in self._validities:
            self._validities[spans.validity] = _validity_fault(spans.validity, key)
        fault = self._validities[spans.validity]
        if fault is not None:
            found.append(fault)
        try:
            key.verify(spans.tbs, digest, spans.signature)
        except InvalidSignature:
            found.append(("audit.signature", "is not signed by its CA"))


def _template_fault(tbs: bytes, device_serial: bytes) -> Fault:
    if device_serial not in tbs:
        return "audit.certificate.name", "does not name the device"
    return "audit.certificate.template", "is not its template filled with the values on record"


def _validity_fault(validity: bytes, key: AuthorityKey) -> Fault | None:
    window = validity_window(validity)
    if window is None:
        return "audit.certificate.malformed", "has a malformed validity"
    if window[0] > window[1]:
        return "audit.certificate.validity", "ends before it begins"
    if window[0] < key.not_before or window[1] > key.not_after:
        return "audit.certificate.validity", f"is valid {window[0]} to {window[1]}, outside the life of its CA"
    return None
