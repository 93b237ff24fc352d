"""Messages of CMP (RFC 9810) as a client needs them: p10cr, certConf, and the answers to both, MAC-protected.

Protection: PasswordBasedMac (RFC 9810, 5.1.3.1) with SHA-256 and HMAC. Everything else than what the profile of
RFC 9483 writes for these messages is refused, and nothing of an answer is believed before its MAC is verified.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

from birthmark.errors import Refused, Tampered, Unavailable
from birthmark.model.secret import Secret
from birthmark.pki.der import bit_string, integer, oid, tlv
from birthmark.pki.derread import Node, bits_of, expect, oid_text, read_der, read_members

__all__ = ["CmpAnswer", "CmpSession", "read_answer"]

_SEQUENCE, _OCTETS, _INTEGER, _TIME = 0x30, 0x04, 0x02, 0x18
_PBM, _SHA256, _HMAC = "1.2.840.113533.7.66.13", "2.16.840.1.101.3.4.2.1", "1.2.840.113549.2.9"
_MACS = {_HMAC: "sha256", "1.2.840.113549.2.7": "sha1", "1.3.6.1.5.5.8.1.2": "sha1"}
"""MACs of answers: OpenSSL's CMP answers with HMAC-SHA1, which still holds as a MAC (RFC 9481, 6.1)."""
_P10CR, _CP, _CERT_CONF, _PKI_CONF, _ERROR = 0xA4, 0xA3, 0xB8, 0xB3, 0xB7
_ROUNDS, _MAX_ROUNDS, _SALT_OCTETS = 2048, 100_000, 16
_NO_NAME = tlv(0xA4, tlv(_SEQUENCE, b""))
"""directoryName with an empty RDNSequence: whoever has only a shared secret has no name (RFC 9483, 3.1)."""


@dataclass(frozen=True, slots=True)
class CmpSession:
    """One transaction. ``reference``: what the secret is known by (senderKID); ``transaction``: 16 random octets."""

    reference: bytes
    secret: Secret
    transaction: bytes

    def p10cr(self, csr: bytes, *, now: datetime, nonce: bytes, salt: bytes) -> bytes:
        """Return the request (DER) for a certificate by PKCS#10; ``nonce``, ``salt``: 16 random octets each."""
        return self._message(tlv(_P10CR, csr), now=now, nonce=nonce, their_nonce=b"", salt=salt)

    def cert_conf(self, answer: CmpAnswer, *, now: datetime, nonce: bytes, salt: bytes) -> bytes:
        """Return the confirmation (DER) that the certificate in ``answer`` came (RFC 9810, 5.3.18)."""
        digest = hashlib.sha256(answer.certificate or b"").digest()
        body = tlv(_CERT_CONF, tlv(_SEQUENCE, tlv(_SEQUENCE, tlv(_OCTETS, digest) + answer.request_id)))
        return self._message(body, now=now, nonce=nonce, their_nonce=answer.nonce, salt=salt)

    def _message(self, body: bytes, *, now: datetime, nonce: bytes, their_nonce: bytes, salt: bytes) -> bytes:
        algorithm = _protection(salt)
        fields = [
            integer(2),
            _NO_NAME,
            _NO_NAME,
            tlv(0xA0, tlv(_TIME, now.strftime("%Y%m%d%H%M%SZ").encode())),
            tlv(0xA1, algorithm),
            tlv(0xA2, tlv(_OCTETS, self.reference)),
            tlv(0xA4, tlv(_OCTETS, self.transaction)),
            tlv(0xA5, tlv(_OCTETS, nonce)),
        ]
        if their_nonce:
            fields.append(tlv(0xA6, tlv(_OCTETS, their_nonce)))
        header = tlv(_SEQUENCE, b"".join(fields))
        mac = _mac(self.secret, salt, _ROUNDS, header + body)
        return tlv(_SEQUENCE, header + body + tlv(0xA0, bit_string(mac)))


@dataclass(frozen=True, slots=True)
class CmpAnswer:
    """``certificate`` (DER) of a cp, None of a pkiConf. ``nonce``: the CA's; ``request_id``: as the CA wrote it (DER).

    RFC 9483 has -1 for p10cr, OpenSSL 3.0 writes 0; the confirmation repeats what came.
    """

    certificate: bytes | None
    nonce: bytes
    request_id: bytes = b""


def read_answer(data: bytes, session: CmpSession, *, nonce: bytes) -> CmpAnswer:
    """Return the answer to our message with ``nonce``.

    Raises ``Tampered``: ``cmp.malformed``, ``cmp.protection``, ``cmp.transaction``; ``Refused("cmp.rejected")`` with
    the CA's words; ``Unavailable("issuer.pending")`` when the CA will decide later.
    """
    try:
        return _read(data, session, nonce)
    except (ValueError, IndexError, KeyError) as problem:
        raise _malformed(type(problem).__name__) from problem
    except Refused as problem:
        if problem.code == "der.malformed":
            raise _malformed(problem.message) from problem
        raise


def _read(data: bytes, session: CmpSession, nonce: bytes) -> CmpAnswer:
    header, body, *rest = read_members(read_der(data))
    fields = {member.tag: member.content for member in read_members(header)[3:]}
    _verify(header, body, rest, fields, session)
    if _octets(fields[0xA4]) != session.transaction or _octets(fields[0xA6]) != nonce:
        raise Tampered(
            "cmp.transaction",
            "the answer of the CA belongs to another request",
            hint="Stop: somebody between us and the CA answers with old messages.",
        )
    their_nonce = _octets(fields[0xA5])
    if body.tag == _ERROR:
        raise _rejected(read_members(read_der(body.content))[0])
    if body.tag == _PKI_CONF:
        return CmpAnswer(None, their_nonce)
    if body.tag != _CP:
        raise _malformed(f"a body of kind {body.tag & 0x1F}")
    certificate, request_id = _certificate(read_der(body.content))
    return CmpAnswer(certificate, their_nonce, request_id)


def _certificate(message: Node) -> tuple[bytes, bytes]:
    """Return certificate and request id; the last member holds the responses, and there is one (RFC 9483, 4.1.4)."""
    (response,) = read_members(expect(read_members(message)[-1], _SEQUENCE))
    request_id, status, *pair = read_members(response)
    code = int.from_bytes(expect(read_members(status)[0], _INTEGER).content, "big")
    if code == 3:
        raise Unavailable(
            "issuer.pending",
            "the CA took the request and decides later",
            hint="Run the same command again later.",
        )
    if code not in (0, 1) or not pair:
        raise _rejected(status)
    (certificate, *_) = read_members(expect(pair[0], _SEQUENCE))
    return read_der(expect(certificate, 0xA0).content).whole, expect(request_id, _INTEGER).whole


def _rejected(status: Node) -> Refused:
    texts = [member for member in read_members(status) if member.tag == _SEQUENCE]
    words = [text.content.decode("utf-8", "replace") for text in read_members(texts[0])] if texts else []
    return Refused(
        "cmp.rejected",
        f"the CA rejects the request: {'; '.join(words)[:200] or 'without a word'}",
        hint="Compare what the profile asks for with what the CA allows.",
    )


def _verify(header: Node, body: Node, rest: list[Node], fields: dict[int, bytes], session: CmpSession) -> None:
    protections = [member for member in rest if member.tag == 0xA0]
    if len(protections) != 1 or 0xA1 not in fields:
        raise _forged("it is not protected")
    kind, parameters = read_members(read_der(fields[0xA1]))
    if oid_text(kind) != _PBM:
        raise _forged("it is protected in another way than by our shared secret")
    salt, owf, rounds, mac = read_members(expect(parameters, _SEQUENCE))
    count = int.from_bytes(expect(rounds, _INTEGER).content, "big")
    digest = _MACS.get(oid_text(read_members(mac)[0]))
    if oid_text(read_members(owf)[0]) != _SHA256 or digest is None or not 1 <= count <= _MAX_ROUNDS:
        raise _forged("its MAC is of another kind than SHA-256 with HMAC")
    expected = _mac(session.secret, expect(salt, _OCTETS).content, count, header.whole + body.whole, digest)
    if not hmac.compare_digest(bits_of(read_der(protections[0].content, 0x03)), expected):
        raise _forged("its MAC is not by our shared secret")


def _protection(salt: bytes) -> bytes:
    sha256, mac = tlv(_SEQUENCE, oid(_SHA256)), tlv(_SEQUENCE, oid(_HMAC))
    parameters = tlv(_SEQUENCE, tlv(_OCTETS, salt) + sha256 + integer(_ROUNDS) + mac)
    return tlv(_SEQUENCE, oid(_PBM) + parameters)


def _mac(secret: Secret, salt: bytes, rounds: int, protected: bytes, digest: str = "sha256") -> bytes:
    """RFC 9810, 5.1.3.1: the key is the hash of secret and salt, hashed again; ProtectedPart is a SEQUENCE."""
    key = secret.reveal() + salt
    for _ in range(rounds):
        key = hashlib.sha256(key).digest()
    return hmac.digest(key, tlv(_SEQUENCE, protected), digest)


def _octets(field: bytes) -> bytes:
    return read_der(field, _OCTETS).content


def _forged(reason: str) -> Tampered:
    return Tampered(
        "cmp.protection",
        f"the answer of the CA is not proven: {reason}",
        hint="Check reference and secret in the issuer URI, and that the CA protects by password-based MAC.",
        reason=reason,
    )


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "cmp.malformed",
        f"this is not an answer to our CMP request: {reason}",
        hint="Check the address of the service; nothing of the answer was kept.",
        reason=reason[:200],
    )
