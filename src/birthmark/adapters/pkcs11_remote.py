"""One private key of ours as a PKCS#11 token of another program: ``p11-kit-client.so`` there, a socket, and this here.

The program asks as PKCS#11 2.40 has it; p11-kit puts each call into a message (its remote procedure calls, version 0):
number of the call, length of options, length of body, options, body; a body is a function number, a signature, and the
arguments. All numbers are big-endian. What is not needed to find the key and to sign is not known here.
"""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.adapters.tlsclient import positive
from birthmark.errors import StationFault

__all__ = ["KEY_URI", "MODULE", "RemoteKey", "require_module"]

MODULE = "p11-kit-client.so"
"""The module that the other program loads. ``P11_KIT_SERVER_ADDRESS`` tells it where we are."""

KEY_URI = "pkcs11:token=device;object=key;type=private"

_VERSION = b"\x00"
_HELLO = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
_MOST = 1 << 16
_SLOT = _SESSION = _KEY = 1
_NO_OCTETS = 0xFFFFFFFF

_ATTRIBUTE_UNKNOWN, _DATA_INVALID, _FUNCTION_UNKNOWN, _MECHANISM_UNKNOWN = 0x12, 0x20, 0x54, 0x70  # CKR_*
_RSA_PKCS, _ECDSA = 0x1, 0x1041  # CKM_*
_SIGNS = 0x801  # CKF_HW, CKF_SIGN
_PRESENT, _READ_ONLY = 0x1, 0x402  # CKF_TOKEN_PRESENT; CKF_WRITE_PROTECTED, CKF_TOKEN_INITIALIZED

_NUMBERS = frozenset({0x0, 0x80, 0x87, 0x100, 0x121, 0x160, 0x161, 0x166})
"""Attributes (CKA_*) whose value is a CK_ULONG."""

_FLAGS = frozenset({0x1, 0x2, 0x86, *range(0x103, 0x10D), *range(0x162, 0x166), 0x170, 0x171, 0x202, 0x210})
"""Attributes whose value is a CK_BBOOL."""

_CURVES = {256: bytes.fromhex("06082a8648ce3d030107"), 384: bytes.fromhex("06052b81040022")}
"""Size of the field in bits → name of the curve (DER, RFC 5480)."""

_HASHES = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""Hash → what stands before the digest in a DigestInfo (RFC 8017, section 9.2)."""

Sign = Callable[[bytes, str, Callable[[], float]], bytes]
"""(digest, name of its hash, seconds left) → signature as PKCS#11 has it. For an EC key the name is empty, and the
digest as long as the order of the curve, whatever hash it comes from."""


class RemoteKey:
    """Implements ``tlsclient.Beside``: shows the key to whoever connects first, and signs for him.

    ``path``: of the socket; its directory is open to nobody else. ``public_key``: on P-256 or P-384, or RSA. What
    ``sign`` raises, ``serve`` raises; whatever else goes wrong ends the connection.
    """

    def __init__(self, path: Path, public_key: Any, sign: Sign) -> None:
        self._attributes = _attributes(public_key)
        self._mechanism = _RSA_PKCS if isinstance(public_key, rsa.RSAPublicKey) else _ECDSA
        self._octets = public_key.key_size // 8
        self._sign = sign
        self._found = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._is_listening, self._is_greeted = True, False
        try:
            self._socket.bind(str(path))
            self._socket.listen(1)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def serve(self, remaining: Callable[[], float]) -> None:
        try:
            if self._is_listening:
                self._accept()
            elif not self._is_greeted:
                self._receive(len(_VERSION), remaining)
                self._socket.sendall(_VERSION)
                self._is_greeted = True
            else:
                self._answer(remaining)
        except (OSError, _Malformed):
            self.close()

    def _accept(self) -> None:
        connection, _ = self._socket.accept()
        self._socket.close()
        self._socket, self._is_listening = connection, False

    def _answer(self, remaining: Callable[[], float]) -> None:
        number, options, size = struct.unpack(">III", self._receive(12, remaining))
        if options + size > _MOST:
            raise _Malformed
        asked = _Arguments(self._receive(options + size, remaining)[options:])
        call = asked.count()
        asked.octets()  # the signature is always the same for a call
        try:
            signature, values = self._result(call, asked, remaining)
        except _Refused as no:
            call, signature, values = 0, "u", _number(no.args[0])
        body = struct.pack(">II", call, len(signature)) + signature.encode() + values
        self._socket.settimeout(positive(remaining()))
        self._socket.sendall(struct.pack(">III", number, 0, len(body)) + body)

    def _receive(self, octets: int, remaining: Callable[[], float]) -> bytes:
        data = b""
        while len(data) < octets:
            self._socket.settimeout(positive(remaining()))
            more = self._socket.recv(octets - len(data))
            if not more:
                raise _Malformed
            data += more
        return data

    def _result(self, call: int, asked: _Arguments, remaining: Callable[[], float]) -> tuple[str, bytes]:
        """Return signature and values of the answer to one call."""
        if call in _ALWAYS:
            return _ALWAYS[call]
        if call == 1:
            return self._initialize(asked)
        if call == 4:
            return self._slots(asked)
        if call == 8:
            return self._mechanism_info(asked)
        if call == 24:
            return self._attribute_values(asked)
        if call == 26:
            return self._find(asked)
        if call == 27:
            found, self._found = self._found, False
            return "au", _numbers(_KEY) if found else _numbers()
        if call == 42:
            return self._begin(asked)
        if call == 43:
            return self._finish(asked, remaining)
        raise _Refused(_FUNCTION_UNKNOWN)

    def _initialize(self, asked: _Arguments) -> tuple[str, bytes]:
        if asked.array() != _HELLO:
            raise _Malformed
        return "", b""

    def _slots(self, asked: _Arguments) -> tuple[str, bytes]:
        asked.octet()
        # Who has no room for a slot asks how many there are.
        return "au", _numbers(_SLOT) if asked.count() else struct.pack(">BI", 0, 1)

    def _mechanism_info(self, asked: _Arguments) -> tuple[str, bytes]:
        asked.number()
        if asked.number() != self._mechanism:
            raise _Refused(_MECHANISM_UNKNOWN)
        return "uuu", _number(256) + _number(4096) + _number(_SIGNS)

    def _attribute_values(self, asked: _Arguments) -> tuple[str, bytes]:
        asked.number()
        asked.number()
        kinds = [asked.kind() for _ in range(asked.bounded())]
        known = [kind in self._attributes for kind in kinds]
        values = b"".join(_attribute(kind, self._attributes.get(kind)) for kind in kinds)
        return "aAu", struct.pack(">I", len(kinds)) + values + _number(0 if all(known) else _ATTRIBUTE_UNKNOWN)

    def _find(self, asked: _Arguments) -> tuple[str, bytes]:
        asked.number()
        wanted = [asked.attribute() for _ in range(asked.bounded())]
        self._found = all(self._attributes.get(kind) == value for kind, value in wanted)
        return "", b""

    def _begin(self, asked: _Arguments) -> tuple[str, bytes]:
        asked.number()
        if asked.count() != self._mechanism:
            raise _Refused(_MECHANISM_UNKNOWN)
        return "", b""

    def _finish(self, asked: _Arguments, remaining: Callable[[], float]) -> tuple[str, bytes]:
        asked.number()
        data, room = asked.array(), asked.count()
        size = self._octets if self._mechanism == _RSA_PKCS else 2 * self._octets
        if room < size:  # it asks how long the signature will be, and nothing is signed for that
            return "ay", struct.pack(">BI", 0, size)
        if self._mechanism == _ECDSA:
            # FIPS 186-5, section 6.4.1: what counts of a digest are its left-most bits, as a number.
            return "ay", b"\1" + _array(self._sign(data[: self._octets].rjust(self._octets, b"\0"), "", remaining))
        for name, start in _HASHES.items():
            digest = data[len(start) :]
            if data.startswith(start) and len(digest) == hashlib.new(name).digest_size:
                return "ay", b"\1" + _array(self._sign(digest, name, remaining))
        raise _Refused(_DATA_INVALID)


def require_module(said: str) -> None:
    """Return unless GnuTLS says that it could not load ``MODULE``: ``StationFault("handshake.tool")``."""
    if "pkcs11_add_provider" in said:
        raise StationFault(
            "handshake.tool",
            f"{MODULE} is not installed",
            hint="Install it: apt-get install p11-kit-modules.",
        )


class _Malformed(Exception):
    """What came is no message of p11-kit, or the end of them."""


class _Refused(Exception):
    """The call fails with the CKR_* that is the argument."""


class _Arguments:
    """Takes the arguments of a call apart, from the first on; raises ``_Malformed`` where there are none."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def octet(self) -> int:
        return self._take(1)[0]

    def count(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def bounded(self) -> int:
        """Return how many members follow, each of which takes at least five octets."""
        count = self.count()
        if 5 * count > len(self._data):
            raise _Malformed
        return count

    def number(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def octets(self) -> bytes:
        size = self.count()
        return b"" if size == _NO_OCTETS else self._take(size)

    def array(self) -> bytes:
        """Return an array of octets that may be absent."""
        return self.octets() if self.octet() else b""

    def kind(self) -> int:
        """Return the kind of an attribute whose value is asked for; the room for it follows."""
        kind = self.count()
        self.count()
        return kind

    def attribute(self) -> tuple[int, int | bytes]:
        kind = self.count()
        if not self.octet():
            return kind, b""
        self.count()
        if kind in _FLAGS:
            return kind, self.octet()
        return kind, self.number() if kind in _NUMBERS else self.octets()

    def _take(self, size: int) -> bytes:
        if size > len(self._data):
            raise _Malformed
        taken, self._data = self._data[:size], self._data[size:]
        return taken


def _attributes(public_key: Any) -> dict[int, int | bytes]:
    """Return what the private key says of itself: class, label, kind, what it does, and its public half."""
    common: dict[int, int | bytes] = {0x0: 3, 0x1: 1, 0x2: 1, 0x3: b"key", 0x102: b"key", 0x103: 1, 0x108: 1}
    common |= {0x105: 0, 0x10C: 0, 0x162: 0, 0x202: 0}
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        modulus, exponent = (n.to_bytes((n.bit_length() + 7) // 8, "big") for n in (numbers.n, numbers.e))
        return common | {0x100: 0, 0x120: modulus, 0x121: public_key.key_size, 0x122: exponent}
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.key_size not in _CURVES:
        raise ValueError("a key on P-256 or P-384, or an RSA key")
    point = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return common | {0x100: 3, 0x180: _CURVES[public_key.key_size], 0x181: bytes((4, len(point))) + point}


def _attribute(kind: int, value: int | bytes | None) -> bytes:
    if value is None:
        return struct.pack(">IB", kind, 0)
    if isinstance(value, bytes):
        return struct.pack(">IBI", kind, 1, len(value)) + _array(value)
    return struct.pack(">IBIB", kind, 1, 1, value) if kind in _FLAGS else struct.pack(">IBIQ", kind, 1, 8, value)


def _number(value: int) -> bytes:
    return struct.pack(">Q", value)


def _numbers(*values: int) -> bytes:
    return struct.pack(">BI", 1, len(values)) + b"".join(map(_number, values))


def _array(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _padded(text: str, octets: int) -> bytes:
    return _array(text.encode().ljust(octets))


_PKCS11 = bytes((2, 40))
_ONES = (1 << 64) - 1  # CK_UNAVAILABLE_INFORMATION
_TOKEN = b"".join(
    (
        _padded("device", 32) + _padded("", 32) + _padded("", 16) + _padded("1", 16),
        _number(_READ_ONLY) + 2 * (_number(0) + _number(_ONES)) + 2 * _number(0) + 4 * _number(_ONES),
        2 * _PKCS11 + _padded("", 16),
    )
)
_ALWAYS: dict[int, tuple[str, bytes]] = {
    2: ("", b""),
    3: ("vsusv", _PKCS11 + _padded("birthmark", 32) + _number(0) + _padded("", 32) + _PKCS11),
    5: ("ssuvv", _padded("", 64) + _padded("", 32) + _number(_PRESENT) + 2 * _PKCS11),
    6: ("ssssuuuuuuuuuuuvvs", _TOKEN),
    10: ("u", _number(_SESSION)),
    11: ("", b""),
    12: ("", b""),
    13: ("uuuu", _number(_SLOT) + 3 * _number(0)),
    28: ("", b""),
}
"""Number of a call whose answer is always the same → its signature, its values."""
