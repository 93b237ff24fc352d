"""Recognises the request that nearly every device sends, octet by octet, without walking through its DER.

It knows one form: a P-256 key, ecdsa-with-SHA256, an empty subject or one CN or serialNumber of plain letters, no
attribute or one extension request. Whatever differs from it, and whatever is wrong with it, is for the full parser:
here is only a yes, never a refusal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.pki.algorithms import ALGORITHMS
from birthmark.pki.der import oid, tlv
from birthmark.pki.keycheck import load_sound_p256

__all__ = ["PlainRequest", "recognise"]

_P256 = ALGORITHMS["p256"]
_LETTERS = rb"[A-Za-z0-9 '()+,./:=?-]"  # PrintableString (X.680, 41.4): they mean the same in a UTF8String
_VALUE = re.compile(_LETTERS + rb"{1,64}")
_NO_NAME = b"\x30\x00"
_NAME = re.compile(rb"\x30(.)\x31(.)\x30(.)\x06\x03(\x55\x04[\x03\x05])[\x0c\x13](.)", re.DOTALL)
_ATTRIBUTES = {b"\x55\x04\x03": "2.5.4.3", b"\x55\x04\x05": "2.5.4.5"}
_INFO_START = b"\x02\x01\x00"
_NO_ATTRIBUTES = b"\xa0\x00"
_EXTENSION_REQUEST = oid("1.2.840.113549.1.9.14")
_SIGNED_BY = tlv(0x30, oid("1.2.840.10045.4.3.2")) + b"\x03"
_SCHEME = ec.ECDSA(hashes.SHA256())
_COORDINATE = 32


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """Parts of a request in the one form whose proof of possession holds: signed octets and key (DER), and the
    subject as (dotted OID, value)."""

    info: bytes
    spki: bytes
    names: tuple[tuple[str, str], ...]
    has_extensions: bool
    """Whether there is an extension request; nothing else is looked at in it."""


def recognise(der: bytes) -> PlainRequest | None:
    """Return the parts of a sound request of the plain form, None for everything else."""
    outer = _inside(der, 0, 0x30)
    if outer is None or outer[1] != len(der):
        return None
    info = _inside(der, outer[0], 0x30)
    if info is None or not der.startswith(_SIGNED_BY, info[1]):
        return None
    parts = _read_info(der, outer[0], *info)
    signature = _signature_of(der, info[1] + len(_SIGNED_BY))
    if parts is None or signature is None:
        return None
    key = load_sound_p256(parts.spki)
    if key is None:
        return None
    try:
        key.verify(signature, parts.info, _SCHEME)
    except InvalidSignature:
        return None
    return parts


def _inside(der: bytes, at: int, tag: int) -> tuple[int, int] | None:
    """Return where the contents of the value at ``at`` start and end; None unless it is a short one with ``tag``."""
    head = der[at : at + 4]
    if len(head) < 4 or head[0] != tag:
        return None
    if head[1] < 0x80:
        start, length = at + 2, head[1]
    elif head[1] == 0x81 and head[2] >= 0x80:
        start, length = at + 3, head[2]
    elif head[1] == 0x82 and head[2]:
        start, length = at + 4, head[2] << 8 | head[3]
    else:
        return None
    end = start + length
    return (start, end) if end <= len(der) else None


def _read_info(der: bytes, start: int, at: int, end: int) -> PlainRequest | None:
    """Return what the info part says that starts at ``start`` and has the contents ``at .. end``; None if it is odd."""
    if not der.startswith(_INFO_START, at):
        return None
    name = _read_name(der, at + len(_INFO_START))
    if name is None:
        return None
    names, key_at = name
    attributes_at = key_at + _P256.spki_length
    spki = der[key_at:attributes_at]
    attributes = der[attributes_at:end]
    if not spki.startswith(_P256.spki_prefix):
        return None
    has_extensions = attributes != _NO_ATTRIBUTES
    if has_extensions and not _is_extension_request(attributes):
        return None
    return PlainRequest(der[start:end], spki, names, has_extensions)


def _read_name(der: bytes, at: int) -> tuple[tuple[tuple[str, str], ...], int] | None:
    """Return an empty name or one of one attribute, and where it ends; None for any other."""
    if der.startswith(_NO_NAME, at):
        return (), at + len(_NO_NAME)
    head = _NAME.match(der, at)
    if head is None:
        return None
    (octets,) = head[5]
    end = head.end() + octets
    fits = head[1] + head[2] + head[3] == bytes((octets + 11 & 0xFF, octets + 9 & 0xFF, octets + 7 & 0xFF))
    value = _VALUE.fullmatch(der, head.end(), end)
    if not fits or value is None:
        return None
    return ((_ATTRIBUTES[head[4]], value[0].decode("ascii")),), end


def _is_extension_request(attributes: bytes) -> bool:
    """Say whether there is an extension request with one value, and nothing else."""
    whole = _inside(attributes, 0, 0xA0)
    if whole is None or whole[1] != len(attributes):
        return False
    pair = _inside(attributes, whole[0], 0x30)
    if pair is None or pair[1] != whole[1] or not attributes.startswith(_EXTENSION_REQUEST, pair[0]):
        return False
    values = _inside(attributes, pair[0] + len(_EXTENSION_REQUEST), 0x31)
    if values is None or values[1] != pair[1]:
        return False
    value = _inside(attributes, values[0], 0x30)
    return value is not None and value[1] == values[1]


def _signature_of(der: bytes, at: int) -> bytes | None:
    """Return an ECDSA signature in its one DER form, from the length of the BIT STRING at ``at`` to the end."""
    bits = der[at:]
    signature = bits[2:]
    if len(bits) < 10 or bits[0] != len(bits) - 1 or bits[1] != 0 or signature[0] != 0x30:
        return None
    second = 4 + signature[3]
    if signature[1] != len(signature) - 2 or second + 2 > len(signature):
        return None
    for start, end in ((2, second), (second, len(signature))):
        number = signature[start + 2 : end]
        if signature[start] != 0x02 or signature[start + 1] != len(number) or not _is_coordinate(number):
            return None
    return signature


def _is_coordinate(number: bytes) -> bool:
    """Say whether the contents of an INTEGER are positive, shortest, and not longer than the field."""
    if not number or number[0] & 0x80:
        return False
    if number[0] == 0:
        return 1 < len(number) <= _COORDINATE + 1 and bool(number[1] & 0x80)
    return len(number) <= _COORDINATE
