"""Recognises the request that nearly every device sends, octet by octet, without walking through its DER.

It knows one form: a P-256 key, ecdsa-with-SHA256, an empty subject or one CN or serialNumber of plain letters, no
attribute or one extension request. Whatever differs from it, and whatever is wrong with it, is for the full parser:
here is only a yes, never a refusal.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.pki.algorithms import ALGORITHMS
from birthmark.pki.der import oid, tlv
from birthmark.pki.keycheck import load_sound_p256

__all__ = ["PlainRequest", "recognise"]

_LETTERS = rb"[A-Za-z0-9 '()+,./:=?-]"  # PrintableString (X.680, 41.4): they mean the same in a UTF8String
_NO_NAME = rb"\x30\x00"
_NAME = (
    rb"\x30(?P<name>.)\x31(?P<set>.)\x30(?P<pair>.)"
    rb"\x06\x03(?P<oid>\x55\x04[\x03\x05])[\x0c\x13](?P<octets>.)(?P<value>" + _LETTERS + rb"{1,64})"
)
_SPKI = re.escape(ALGORITHMS["p256"].spki_prefix) + rb".{64}"
# Version, name and key. No letter of a name begins as the key does, so there is one way to divide them.
_START = re.compile(rb"\x02\x01\x00(?:" + _NO_NAME + rb"|" + _NAME + rb")(?P<spki>" + _SPKI + rb")", re.DOTALL)
_ATTRIBUTES = {b"\x55\x04\x03": "2.5.4.3", b"\x55\x04\x05": "2.5.4.5"}
_NO_ATTRIBUTES = b"\xa0\x00"
_EXTENSION_REQUEST = oid("1.2.840.113549.1.9.14")
_SIGNED_BY = tlv(0x30, oid("1.2.840.10045.4.3.2")) + b"\x03"
_SCHEME = ec.ECDSA(hashes.SHA256())
_LONGEST_SIGNATURE = 72


class PlainRequest(NamedTuple):
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
    info = None if outer is None else _inside(der, outer[0], 0x30)
    if outer is None or info is None or outer[1] != len(der) or not der.startswith(_SIGNED_BY, info[1]):
        return None
    found = _START.match(der, *info)
    if found is None:
        return None
    name, in_set, in_pair, kind, octets, value, spki = found.groups()
    if value is not None:
        length = len(value)
        if name + in_set + in_pair + octets != bytes((length + 11, length + 9, length + 7, length)):
            return None
    attributes = der[found.end() : info[1]]
    if attributes != _NO_ATTRIBUTES and not _is_extension_request(attributes):
        return None
    bits = info[1] + len(_SIGNED_BY)
    # What is inside of these bits OpenSSL reads: one DER form, two positive numbers below the order.
    if not 2 < len(der) - bits <= _LONGEST_SIGNATURE + 2 or der[bits : bits + 2] != bytes((len(der) - bits - 1, 0)):
        return None
    signed = der[outer[0] : info[1]]
    key = load_sound_p256(spki)
    if key is None:
        return None
    try:
        key.verify(der[bits + 2 :], signed, _SCHEME)
    except InvalidSignature:
        return None
    names = () if value is None else ((_ATTRIBUTES[kind], value.decode("ascii")),)
    return PlainRequest(signed, spki, names, attributes != _NO_ATTRIBUTES)


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
