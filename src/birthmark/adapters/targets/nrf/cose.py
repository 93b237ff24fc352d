"""COSE_Sign1 as a modem signs with it (RFC 9052, section 4.2): ES256, the few forms of CBOR that stand in it.

Read strictly and by hand: what a modem sends is a stranger's, and a whole CBOR library does far more with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

__all__ = ["Item", "Sign1", "read_item", "read_sign1"]

Item = int | bytes | str | None | tuple["Item", ...] | dict[int, "Item"]
"""A CBOR item; a tag other than 18 and 55799 is refused."""

_MAX_OCTETS = 4096
_MAX_DEPTH = 4
_SELF_DESCRIBED, _SIGN1 = 55799, 18
_ES256_HEADER = bytes.fromhex("a10126")
_NULL = 0xF6
_NUMBER = 32


@dataclass(frozen=True, slots=True)
class Sign1:
    """``payload`` is None where what was signed stands beside it. ``key_id`` as it stands in the header (label 4)."""

    key_id: bytes
    payload: bytes | None
    signature: bytes

    def holds(self, key: ec.EllipticCurvePublicKey, detached: bytes = b"") -> bool:
        """Say whether ``key`` (P-256) made this signature, over its payload or over ``detached``."""
        payload = detached if self.payload is None else self.payload
        signed = b"\x84\x6aSignature1\x43" + _ES256_HEADER + b"\x40" + _byte_string(payload)
        numbers = (int.from_bytes(half, "big") for half in (self.signature[:_NUMBER], self.signature[_NUMBER:]))
        try:
            key.verify(encode_dss_signature(*numbers), signed, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


def read_sign1(data: bytes) -> Sign1:
    """Return a COSE_Sign1 (tag 18) that is signed with ES256; ``ValueError`` for anything else."""
    item = read_item(data, tag=_SIGN1)
    if not isinstance(item, tuple) or len(item) != 4:
        raise ValueError("not four parts")
    protected, headers, payload, signature = item
    if protected != _ES256_HEADER or not isinstance(headers, dict) or set(headers) != {4}:
        raise ValueError("headers")
    key_id = headers[4]
    if not isinstance(key_id, bytes) or not isinstance(payload, bytes | None):
        raise ValueError("key id or payload")
    if not isinstance(signature, bytes) or len(signature) != 2 * _NUMBER:
        raise ValueError("signature")
    return Sign1(key_id, payload, signature)


def read_item(data: bytes, *, tag: int | None = None) -> Item:
    """Return the one item in ``data``, after ``tag`` if one is asked for; ``ValueError`` for anything else."""
    if len(data) > _MAX_OCTETS:
        raise ValueError("size")
    at = 0
    if tag is not None:
        major, number, at = _head(data, at)
        if (major, number) != (6, tag):
            raise ValueError("tag")
    item, at = _item(data, at, 0)
    if at != len(data):
        raise ValueError("octets after the end")
    return item


def _item(data: bytes, at: int, depth: int) -> tuple[Item, int]:
    if depth > _MAX_DEPTH:
        raise ValueError("depth")
    if data[at : at + 1] == bytes((_NULL,)):
        return None, at + 1
    major, number, at = _head(data, at)
    if (major, number) == (6, _SELF_DESCRIBED):
        return _item(data, at, depth + 1)
    if major in (0, 1):
        return (number if major == 0 else -1 - number), at
    if major in (2, 3):
        content = data[at : at + number]
        if len(content) != number:
            raise ValueError("cut off")
        return (content if major == 2 else content.decode("utf-8")), at + number
    if major == 4:
        items = []
        for _ in range(_counted(number)):
            item, at = _item(data, at, depth + 1)
            items.append(item)
        return tuple(items), at
    if major == 5:
        pairs: dict[int, Item] = {}
        for _ in range(_counted(number)):
            label, at = _item(data, at, depth + 1)
            if not isinstance(label, int) or label in pairs:
                raise ValueError("label")
            pairs[label], at = _item(data, at, depth + 1)
        return pairs, at
    raise ValueError("kind of item")


def _counted(number: int) -> int:
    if number > 16:
        raise ValueError("too many parts")
    return number


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return major type, argument and where the content begins (RFC 8949, section 3); definite lengths only."""
    if at >= len(data):
        raise ValueError("cut off")
    major, argument = data[at] >> 5, data[at] & 0x1F
    if argument < 24:
        return major, argument, at + 1
    width = {24: 1, 25: 2, 26: 4}.get(argument)
    if major == 7 or width is None or at + 1 + width > len(data):
        raise ValueError("head")
    return major, int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width


def _byte_string(data: bytes) -> bytes:
    size = len(data)
    if size < 24:
        return bytes((0x40 + size,)) + data
    return (bytes((0x58, size)) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + data
