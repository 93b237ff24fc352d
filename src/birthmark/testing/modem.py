"""A cellular modem with a credential store, as far as a production line sees one; its limits: docs/testing.md."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from birthmark.testing.ptydevice import NO_NOISE, Noise, PtyDevice

__all__ = ["ModemFaults", "ModemSimulator"]

_ACTIVE_ONLY_READ = 518
_NOT_FOUND, _NO_ACCESS, _EXISTS, _INVALID, _KEYGEN_FAILED = 513, 514, 519, 527, 523
_CERTIFICATES, _KEY = (0, 1), 2
_CSR_MESSAGE, _IDENTITY_MESSAGE = 9, 1
_NULL_AFTER_ECDSA = (bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300c06082a8648ce3d0403020500"))


@dataclass
class ModemFaults:
    """What this modem does wrong, each until it is set back.

    ``write_error``: ERROR to every write, or ``+CME ERROR: n`` for a number. ``stores_nothing``: writes are
    acknowledged and forgotten. ``stores``: this content is stored and shown instead of the one that was sent.
    ``signs_with_another_key``: tokens for a client key are signed with a new key each time. ``keygen_digest``: the
    digest in the attestation is of something else. ``keygen_signature``: another identity key signs.
    ``csr_null``: NULL parameters stand after ecdsa-with-SHA256 in the CSR, as real modems write. ``echo``: commands
    come back. ``chatter``: a line nobody asked for comes before every answer. ``silent_for``: so many commands
    get no answer.
    """

    write_error: bool | int = False
    stores_nothing: bool = False
    stores: str | None = None
    signs_with_another_key: bool = False
    keygen_digest: bool = False
    keygen_signature: bool = False
    csr_null: bool = False
    echo: bool = False
    chatter: str | None = None
    silent_for: int = 0


@dataclass
class _Slot:
    content: str
    key: ec.EllipticCurvePrivateKey | None = field(default=None, repr=False)


class ModemSimulator(PtyDevice):
    """Answers AT+CFUN, AT+CGSN, AT+CMEE, AT%CMNG, AT%KEYGEN, AT%ATTESTTOKEN and AT%JWT.

    ``imei``: 15 digits with a right check digit. ``store``: (sec_tag, type) → text. ``commands``: what it was told,
    without contents. ``identity_key`` stands for the one that the maker burns in; ``anchor_line`` is its line in a
    file of identity keys.
    """

    def __init__(
        self,
        *,
        imei: str = "350457790000010",
        uuid: str = "50363154-3932-44f0-8022-121b6401627d",
        noise: Noise = NO_NOISE,
    ) -> None:
        super().__init__(noise=noise)
        self.imei = imei
        self.uuid = UUID(uuid)
        self.faults = ModemFaults()
        self.identity_key = ec.generate_private_key(ec.SECP256R1())
        self.commands: list[str] = []
        self._slots: dict[tuple[int, int], _Slot] = {}
        self._active = True
        self._verbose = False
        self._buffer = b""

    @property
    def store(self) -> dict[tuple[int, int], str]:
        """Everything in the credential store; a private key as its PEM text."""
        return {place: slot.content for place, slot in sorted(self._slots.items())}

    def anchor_line(self) -> str:
        """Return ``UUID SPKI`` for this modem."""
        spki = self.identity_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"{self.uuid} {base64.b64encode(spki).decode()}"

    def received(self, data: bytes) -> None:
        """A command ends with CR LF outside of quotation marks; a PEM text inside of them has line ends of its own."""
        self._buffer += data
        while (end := self._end_of_command()) >= 0:
            command, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
            if self.faults.echo:
                self.send(command + b"\r\n")
            if text := command.decode("latin-1").strip():
                self._answer(text)

    def _end_of_command(self) -> int:
        quoted = False
        for at, octet in enumerate(self._buffer):
            quoted ^= octet == ord('"')
            if not quoted and self._buffer[at : at + 2] == b"\r\n":
                return at
        return -1

    def _answer(self, text: str) -> None:
        self.commands.append(text.partition('"')[0][:80])
        if self.faults.silent_for > 0:
            self.faults.silent_for -= 1
            return
        lines = [] if self.faults.chatter is None else [self.faults.chatter]
        for form, handler in _COMMANDS:
            if (match := re.fullmatch(form, text, re.DOTALL)) is not None:
                result = handler(self, match)
                break
        else:
            result = True
        if isinstance(result, list):
            lines += [*result, "OK"]
        else:
            numbered = self._verbose and result is not True
            lines.append(f"+CME ERROR: {result:d}" if numbered else "ERROR")
        self.send("".join(f"{line}\r\n" for line in lines).encode("latin-1"))

    def _mode(self, match: re.Match[str]) -> list[str]:
        self._active = match[1] not in ("0", "4")
        return []

    def _errors(self, match: re.Match[str]) -> list[str]:
        self._verbose = match[1] != "0"
        return []

    def _write(self, match: re.Match[str]) -> list[str] | int | bool:
        place, content = (int(match[1]), int(match[2])), match[3]
        if self._active:
            return _ACTIVE_ONLY_READ
        if self.faults.write_error:
            return self.faults.write_error
        if place in self._slots:
            return _EXISTS
        if place[1] in _CERTIFICATES and not content.lstrip().startswith("-----BEGIN CERTIFICATE-----"):
            return _INVALID
        if not self.faults.stores_nothing:
            self._slots[place] = _Slot(content if self.faults.stores is None else self.faults.stores)
        return []

    def _list(self, match: re.Match[str]) -> list[str] | int:
        tag, kind = (None if part is None else int(part) for part in (match[1], match[2]))
        found = [place for place in sorted(self._slots) if tag in (None, place[0]) and kind in (None, place[1])]
        return [f'%CMNG: {place[0]},{place[1]},"{self._digest(place)}"' for place in found]

    def _read(self, match: re.Match[str]) -> list[str] | int:
        place = int(match[1]), int(match[2])
        if place not in self._slots:
            return _NOT_FOUND
        if place[1] == _KEY:
            return _NO_ACCESS
        return [f'%CMNG: {place[0]},{place[1]},"{self._digest(place)}","{self._slots[place].content}"']

    def _delete(self, match: re.Match[str]) -> list[str] | int:
        place = int(match[1]), int(match[2])
        if self._active:
            return _ACTIVE_ONLY_READ
        return [] if self._slots.pop(place, None) is not None else _NOT_FOUND

    def _digest(self, place: tuple[int, int]) -> str:
        return sha256(self._slots[place].content.encode("latin-1")).hexdigest().upper()

    def _keygen(self, match: re.Match[str]) -> list[str] | int:
        tag, place = int(match[1]), (int(match[1]), _KEY)
        if self._active:
            return _ACTIVE_ONLY_READ
        if place in self._slots:
            return _EXISTS
        name = match[2] if match[2] is not None else f"CN={self.uuid}"
        if not name.startswith("CN="):
            return _KEYGEN_FAILED
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self._slots[place] = _Slot(pem, key)
        csr = _request(key, name[3:], match[3] or "111010000")
        if self.faults.csr_null:
            csr = _with_null(csr)
        digest = sha256(csr + (b"x" if self.faults.keygen_digest else b"")).digest()
        parts = (self.uuid.bytes, _integer(tag), digest, os.urandom(16))
        payload = b"\xd9\xd9\xf7" + _array(_integer(_CSR_MESSAGE), *map(_octets, parts))
        cose = self._sign1(payload, attached=True)
        return [f'%KEYGEN: "{_base64url(csr)}.{_base64url(cose)}"']

    def _token(self, match: re.Match[str]) -> list[str]:
        nonce = os.urandom(16) if match[1] is None else bytes.fromhex(match[1])
        message = b"\xd9\xd9\xf7" + _array(
            _integer(_IDENTITY_MESSAGE), _octets(self.uuid.bytes), _integer(4), _octets(bytes(16)), _octets(nonce)
        )
        return [f'%ATTESTTOKEN: "{_base64url(message)}.{_base64url(self._sign1(message, attached=False))}"']

    def _sign1(self, payload: bytes, *, attached: bool) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1()) if self.faults.keygen_signature else self.identity_key
        header = bytes.fromhex("a10126")
        signed = b"\x84\x6aSignature1" + _octets(header) + _octets(b"") + _octets(payload)
        raw = _raw(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        body = _octets(payload) if attached else b"\xf6"
        return b"\xd2\x84" + _octets(header) + b"\xa1\x04\x41\x21" + body + _octets(raw)

    def _jwt(self, match: re.Match[str]) -> list[str] | int:
        subject, audience, tag = match[1], match[2], int(match[3])
        slot = self._slots.get((tag, _KEY))
        if slot is None:
            return _NOT_FOUND
        key = slot.key or load_pem_private_key(slot.content.encode(), None)
        if self.faults.signs_with_another_key:
            key = ec.generate_private_key(ec.SECP256R1())
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            return _NO_ACCESS
        claims = {"iss": f"nRF9160.{self.uuid}", "jti": f"nRF9160.{self.uuid}.{os.urandom(8).hex()}"}
        parts = ({"typ": "JWT", "alg": "ES256"}, {**claims, "sub": subject, "aud": audience})
        signed = ".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
        raw = _raw(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return [f'%JWT: "{signed}.{_base64url(raw)}"']


_COMMANDS: tuple[tuple[str, Callable[[ModemSimulator, re.Match[str]], list[str] | int | bool]], ...] = (
    ("AT", lambda modem, match: []),
    (r"AT\+CGSN", lambda modem, match: [modem.imei]),
    (r"AT\+CGMR", lambda modem, match: ["mfw_nrf91x1_2.0.2"]),
    (r"AT\+CMEE=([012])", ModemSimulator._errors),
    (r"AT\+CFUN=([0-9]{1,2})", ModemSimulator._mode),
    (r'AT%CMNG=0,([0-9]{1,10}),([0-9]{1,2}),"(.+)"', ModemSimulator._write),
    (r"AT%CMNG=1(?:,([0-9]{1,10})(?:,([0-9]{1,2}))?)?", ModemSimulator._list),
    (r"AT%CMNG=2,([0-9]{1,10}),([0-9]{1,2})", ModemSimulator._read),
    (r"AT%CMNG=3,([0-9]{1,10}),([0-9]{1,2})", ModemSimulator._delete),
    (r'AT%KEYGEN=([0-9]{1,10}),2,0(?:,"([^"]*)"(?:,"([01]{9})")?)?', ModemSimulator._keygen),
    (r'AT%ATTESTTOKEN(?:="([0-9a-f]{32})")?', ModemSimulator._token),
    (r'AT%JWT=0,0,"([^"]*)","([^"]*)",([0-9]{1,10}),2', ModemSimulator._jwt),
)


def _request(key: ec.EllipticCurvePrivateKey, name: str, usage: str) -> bytes:
    bits = [digit == "1" for digit in usage]
    if not bits[4]:
        bits[7:9] = [False, False]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.KeyUsage(*bits), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _with_null(csr: bytes) -> bytes:
    """Write NULL after the signature algorithm, as modems do; the signature is over the first part and still holds."""
    plain, with_null = _NULL_AFTER_ECDSA
    before, _, after = csr.rpartition(plain)
    inside = before + with_null + after
    content = inside[4 if inside[1] == 0x82 else 3 :]
    size = len(content)
    return (b"\x30\x82" + size.to_bytes(2, "big") if size > 255 else bytes((0x30, 0x81, size))) + content


def _raw(signature: bytes) -> bytes:
    return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _head(major: int, number: int) -> bytes:
    """Return the head of a CBOR item (RFC 8949, section 3) in its shortest form."""
    if number < 24:
        return bytes((major << 5 | number,))
    width = next(width for width in (1, 2, 4, 8) if number < 256**width)
    return bytes((major << 5 | 23 + width.bit_length(),)) + number.to_bytes(width, "big")


def _integer(number: int) -> bytes:
    return _head(0, number)


def _octets(data: bytes) -> bytes:
    return _head(2, len(data)) + data


def _array(*items: bytes) -> bytes:
    return _head(4, len(items)) + b"".join(items)
